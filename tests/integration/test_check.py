"""`topics --create` and `check` against a real Kafka and a real Valkey."""

import json
import re
import time
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from kronos_stream.checks import create_topics, described_topics, findings
from kronos_stream.settings import Settings
from kronos_stream.wire.partitioning import crc32_partition

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(kafka_bootstrap: str, redis_url: str, topic_prefix: str) -> Settings:
    given = {
        "kafka": {"bootstrap": kafka_bootstrap, "topic_prefix": topic_prefix, "partitions": 4},
        "redis": {"url": redis_url},
    }
    return msgspec.convert(given, Settings)


async def looked(settings: Settings, **more: Any) -> tuple[list[str], list[str]]:
    said: list[str] = []
    return await findings(settings, said.append, **more), said


async def test_missing_topics_are_named_until_they_are_created(settings: Settings) -> None:
    wrong, _ = await looked(settings)
    prefix = settings.kafka.topic_prefix
    assert wrong == [
        *(f"{line.split(':')[0]}: missing" for line in described_topics(settings)),
        "topics: `kronos-stream topics --create` makes what is missing",
    ]
    said: list[str] = []
    await create_topics(settings, said.append)
    assert said[0] == f"{prefix}.ticks: partitions=4"
    assert not [line for line in said if line.startswith("differs")]
    wrong, said = await looked(settings)
    assert wrong == []
    assert any(line.startswith("topics: the 6 of") for line in said)


async def test_what_differs_and_where_ticks_went_is_named(settings: Settings) -> None:
    prefix = settings.kafka.topic_prefix
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap})
    ticks = NewTopic(f"{prefix}.ticks", num_partitions=4, replication_factor=1)
    admin.create_topics([ticks])[f"{prefix}.ticks"].result(20)
    await create_topics(settings, lambda line: None)
    now = time.time_ns() // 1_000_000
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap})
    for i in range(20):
        symbol = f"SYM{i}"
        tick = {"symbol": symbol, "price": "1", "qty": "1", "time": now}
        partition = crc32_partition(symbol.encode(), 4)
        producer.produce(f"{prefix}.ticks", json.dumps(tick), symbol, partition)
    producer.produce(f"{prefix}.ticks", "junk", partition=0)
    producer.produce(f"{prefix}.ticks", '{"marker_time": 1}', partition=0, timestamp=now + 600_000)
    assert producer.flush(10) == 0
    wrong, _ = await looked(settings)
    told = "\n".join(wrong)
    assert f"{prefix}.ticks: message.timestamp.type=CreateTime, expected LogAppendTime" in told
    assert "all fit crc32 (librdkafka's default)" in told
    assert "1 of the newest records are rejected as not_json" in told
    assert re.search(r"dated (59\d|600) s ahead of our clock", told)


async def test_a_clock_that_is_off_is_named(settings: Settings) -> None:
    wrong, _ = await looked(settings, clock=lambda: time.time() - 100)
    assert any("redis: its clock is +100.0 s from ours" in line for line in wrong)


async def test_what_does_not_answer_is_named() -> None:
    given = {"kafka": {"bootstrap": "127.0.0.1:1"}, "redis": {"url": "redis://u:pw@127.0.0.1:1/0"}}
    wrong, _ = await looked(msgspec.convert(given, Settings))
    assert [line.split(":")[0] for line in wrong] == ["redis", "kafka.bootstrap"]
    assert "pw" not in wrong[0]
