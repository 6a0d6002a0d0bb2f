"""The broker's client, on the embedded broker and on a real one."""

import time
from collections.abc import Iterator

import pytest
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ConfigSource, NewTopic

from kronos_stream.embedded import EmbeddedBroker
from kronos_stream.errors import BrokerError
from kronos_stream.kafka import Broker, Commit
from kronos_stream.kafka.tolerant import TolerantRecords
from kronos_stream.settings import KafkaSettings
from kronos_stream.wire.topics import Topics, group_name
from tests.kafka_clients import assignment_of, connected, member_of, publishing, read, settings_of


@pytest.fixture(scope="module")
def embedded_bootstrap() -> Iterator[str]:
    broker = EmbeddedBroker()
    yield broker.bootstrap
    broker.close()


# Both kinds of broker -------------------------------------------------------------------------


@pytest.fixture(
    params=["embedded", pytest.param("real", marks=pytest.mark.integration)], scope="module"
)
def where(request: pytest.FixtureRequest) -> tuple[str, bool]:
    if request.param == "embedded":
        return request.getfixturevalue("embedded_bootstrap"), True
    return request.getfixturevalue("kafka_bootstrap"), False


async def test_a_record_comes_back_as_it_was_sent(
    where: tuple[str, bool], topic_prefix: str
) -> None:
    async with (
        connected(where[0], topic_prefix, embedded=where[1]) as broker,
        publishing(broker) as publisher,
        member_of(broker) as member,
    ):
        for p in await assignment_of(member):
            member.seek(p, 0)
        acknowledged = await publisher.send(
            broker.topics.ticks, b"v", partition=2, key=b"S", headers=(("schema", b"tick/1"),)
        )
        assert await acknowledged == 0
        (record,) = await read(member, 1)
        assert (record.topic, record.partition, record.offset) == (broker.topics.ticks, 2, 0)
        assert (record.key, record.value) == (b"S", b"v")
        assert record.headers == (("schema", b"tick/1"),)
        assert await member.position(2) == 1
        assert abs(record.timestamp - time.time() * 1000) < 60_000


async def test_a_bar_keeps_its_time_however_far_ahead(
    where: tuple[str, bool], topic_prefix: str
) -> None:
    """Kafka 4 refuses records more than an hour ahead unless the topic says otherwise."""
    ahead = int(time.time() * 1000) + 10 * 86_400_000
    async with connected(where[0], topic_prefix, embedded=where[1]) as broker:
        async with publishing(broker) as publisher:
            await (await publisher.send(broker.topics.bars, b"b", partition=1, timestamp=ahead))
        batches = [b async for b in broker.read(broker.topics.bars, 1, 0, 1)]
        assert [r.timestamp for batch in batches for r in batch] == [ahead]


async def test_nothing_is_delivered_before_seek_and_only_from_there(
    where: tuple[str, bool], topic_prefix: str
) -> None:
    async with (
        connected(where[0], topic_prefix, embedded=where[1]) as broker,
        publishing(broker) as publisher,
        member_of(broker) as member,
    ):
        for i in range(10):
            await publisher.send(broker.topics.ticks, b"%d" % i, partition=i % 2)
        await publisher.flush()
        assert await assignment_of(member) == {0, 1, 2, 3}
        assert member.take_assignment() is None
        assert await member.poll(max_wait_ms=100) == {}
        member.seek(1, 3)
        assert [r.value for r in await read(member, 2)] == [b"7", b"9"]
        assert await member.poll(max_wait_ms=50) == {}
        member.seek(0, 0)
        assert [r.offset for r in await read(member, 5)] == [0, 1, 2, 3, 4]
        member.seek(0, 4)
        assert [r.offset for r in await read(member, 1)] == [4]


async def test_paused_partitions_wait(where: tuple[str, bool], topic_prefix: str) -> None:
    async with (
        connected(where[0], topic_prefix, embedded=where[1]) as broker,
        publishing(broker) as publisher,
        member_of(broker) as member,
    ):
        for p in await assignment_of(member):
            member.seek(p, 0)
        member.pause({0})
        for p in (0, 1):
            await publisher.send(broker.topics.ticks, b"x", partition=p)
        await publisher.flush()
        assert [r.partition for r in await read(member, 1)] == [1]
        assert await member.poll(max_wait_ms=100) == {}
        member.resume({0})
        assert [r.partition for r in await read(member, 1)] == [0]


async def test_offsets_and_a_bounded_read(where: tuple[str, bool], topic_prefix: str) -> None:
    async with connected(where[0], topic_prefix, embedded=where[1]) as broker:
        topic = broker.topics.bars
        async with publishing(broker) as publisher:
            for i in range(2_000):
                await publisher.send(topic, b"%d" % i, partition=3, timestamp=1_000 * i)
            await publisher.flush()
        assert await broker.partitions(topic) == 4
        assert await broker.begin_offsets(topic, [3]) == {3: 0}
        assert await broker.end_offsets(topic, [2, 3]) == {2: 0, 3: 2_000}
        read = [r async for batch in broker.read(topic, 3, 500, 1_900) for r in batch]
        assert [r.offset for r in read] == list(range(500, 1_900))
        assert [b async for b in broker.read(topic, 3, 7, 7)] == []
        at = await broker.offsets_for_times(topic, {3: 500_500, 2: 0})
        assert at == ({3: 0, 2: 0} if broker.embedded else {3: 501, 2: 0})
        if not broker.embedded:
            assert await broker.offsets_for_times(topic, {3: 10**12}) == {3: 2_000}


async def test_a_record_over_the_limit_is_refused_and_the_next_goes_through(
    where: tuple[str, bool], topic_prefix: str
) -> None:
    async with (
        connected(where[0], topic_prefix, embedded=where[1]) as broker,
        publishing(broker) as publisher,
    ):
        with pytest.raises(BrokerError, match="MessageSizeTooLarge"):
            await publisher.send(broker.topics.ticks, bytes(1_100_000), partition=0)
        assert await (await publisher.send(broker.topics.ticks, b"x", partition=0)) == 0


async def test_a_partition_that_is_not_there_is_refused(
    where: tuple[str, bool], topic_prefix: str
) -> None:
    async with (
        connected(where[0], topic_prefix, embedded=where[1]) as broker,
        publishing(broker) as publisher,
    ):
        with pytest.raises(BrokerError, match="partition"):
            await publisher.send(broker.topics.ticks, b"x", partition=99)


# Embedded only --------------------------------------------------------------------------------


async def test_topics_are_made_on_an_embedded_broker_of_another_process(
    embedded_bootstrap: str, topic_prefix: str
) -> None:
    async with connected(embedded_bootstrap, topic_prefix) as broker:
        assert not await broker.has_controller()
        assert [await broker.partitions(topic) for topic in broker.topics.all] == [4] * 6
        assert await broker.check_topics() == []
        with pytest.raises(BrokerError, match=r"listing groups: this broker cannot \(embedded"):
            await broker.groups(topic_prefix)


async def test_a_topic_of_another_interval_is_pointed_at(
    embedded_bootstrap: str, topic_prefix: str
) -> None:
    async with connected(embedded_bootstrap, topic_prefix):
        pass
    broker = Broker(
        settings_of(topic_prefix), bootstrap=embedded_bootstrap, embedded=False, interval="1m"
    )
    await broker.start()
    try:
        with pytest.raises(
            BrokerError, match=rf"but {topic_prefix}\.bars\.5m: is --interval right"
        ):
            await broker.partitions(broker.topics.bars)
        await broker.partitions(broker.topics.ticks)
    finally:
        await broker.close()


async def test_embedded_commits_nothing(embedded_bootstrap: str, topic_prefix: str) -> None:
    async with connected(embedded_bootstrap, topic_prefix, embedded=True) as broker:
        async with member_of(broker) as member:
            await assignment_of(member)
            assert await member.commit({0: Commit(5, "m")})
        assert await broker.committed("g", broker.topics.ticks, range(4)) == {}
        assert await broker.check_topics() == []


async def test_no_broker_at_the_address() -> None:
    broker = Broker(settings_of("x"), bootstrap="127.0.0.1:1", embedded=False, interval="5m")
    with pytest.raises(BrokerError, match=r"kafka\.bootstrap.*127\.0\.0\.1:1"):
        await broker.start()


@pytest.mark.integration
@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
async def test_records_of_others_may_be_compressed(
    codec: str, kafka_bootstrap: str, topic_prefix: str
) -> None:
    async with connected(kafka_bootstrap, topic_prefix) as broker:
        topic = broker.topics.ticks
        other = Producer({"bootstrap.servers": kafka_bootstrap, "compression.type": codec})
        for n in range(50):
            other.produce(topic, b"v" * n, partition=0)
        assert other.flush(10) == 0
        found = [r.value async for records in broker.read(topic, 0, 0, 50) for r in records]
        assert found == [b"v" * n for n in range(50)]


@pytest.mark.integration
async def test_what_a_transaction_has_taken_back_is_not_read(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async with connected(kafka_bootstrap, topic_prefix) as broker, member_of(broker) as member:
        topic = broker.topics.ticks
        other = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": topic_prefix})
        other.init_transactions()
        for n, end in enumerate(
            (other.commit_transaction, other.abort_transaction, other.commit_transaction)
        ):
            other.begin_transaction()
            other.produce(topic, str(n).encode(), partition=0)
            assert other.flush(10) == 0
            end()
        # Three records, and a marker behind each.
        end_offset = 6
        found = [r.value async for some in broker.read(topic, 0, 0, end_offset) for r in some]
        assert found == [b"0", b"2"]
        for p in await assignment_of(member):
            member.seek(p, 0)
        assert [r.value for r in await read(member, 2)] == [b"0", b"2"]


@pytest.mark.integration
async def test_a_topic_is_made_anew_as_it_was(kafka_bootstrap: str, topic_prefix: str) -> None:
    name = Topics(topic_prefix, "5m").bars
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    config = {"max.message.bytes": "2000000", "cleanup.policy": "delete"}
    admin.create_topics([NewTopic(name, 5, 1, config=config)])[name].result(10)
    async with connected(kafka_bootstrap, topic_prefix) as broker, publishing(broker) as publisher:
        await (await publisher.send(name, b"v", partition=4, key=b"S", timestamp=7))
        await broker.recreate(name)
        assert await broker.partitions(name) == 5
        assert set((await broker.end_offsets(name, range(5))).values()) == {0}
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    found = admin.describe_configs([resource])[resource].result(10)
    own = {k for k, v in found.items() if v.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value}
    assert own == config.keys()
    assert found["max.message.bytes"].value == "2000000"


class _Bytes(str):
    """A name of a header that is no UTF-8, as other clients may write it."""

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


@pytest.mark.integration
async def test_a_record_with_such_a_header_ends_no_reader(
    kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by aiokafka's builder in Python, which calls the name's own encode()."""
    monkeypatch.setattr(fetcher, "MemoryRecords", MemoryRecords)
    for module in ("message_accumulator", "producer"):
        name = f"aiokafka.producer.{module}.DefaultRecordBatchBuilder"
        monkeypatch.setattr(name, _DefaultRecordBatchBuilderPy)
    async with (
        connected(kafka_bootstrap, topic_prefix) as broker,
        publishing(broker) as publisher,
        member_of(broker) as member,
    ):
        topic = broker.topics.ticks
        for n in range(40):
            name = _Bytes("x") if n in (11, 30) else "fine"
            for partition in range(2):
                await publisher.send(
                    topic, str(n).encode(), partition=partition, headers=[(name, b"1")]
                )
            if n % 7 == 0:
                await publisher.flush()
        await publisher.flush()
        expected = [str(n).encode() for n in range(40)]
        for p in await assignment_of(member):
            member.seek(p, 0)
        records = await read(member, 80)
        assert [[r.value for r in records if r.partition == p] for p in range(2)] == [expected] * 2
        monkeypatch.setattr(fetcher, "MemoryRecords", MemoryRecords)
        found = [r async for some in broker.read(topic, 1, 0, 40) for r in some]
        assert [r.value for r in found] == expected
        assert found[11].headers == (("\ufffd\ufffd", b"1"),)


@pytest.mark.parametrize("codec", [0, 1])
def test_the_name_of_a_header_may_be_no_utf_8(codec: int) -> None:
    builder = _DefaultRecordBatchBuilderPy(
        2, codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=100_000,
    )  # fmt: skip
    names = ["fine", _Bytes("x"), "grüße"]
    for n, name in enumerate(names):
        assert builder.append(n, 7, b"k", str(n).encode(), [(name, b"1"), ("schema", b"tick/1")])
    data = bytes(builder.build())
    with pytest.raises(UnicodeDecodeError):
        list(MemoryRecords(data).next_batch())
    records = TolerantRecords(data + data)
    for _ in range(2):
        assert records.has_next()
        batch = records.next_batch()
        assert (batch.next_offset, batch.is_control_batch) == (3, False)
        found = list(batch)
        assert [(r.offset, r.key, r.value) for r in found] == [
            (n, b"k", str(n).encode()) for n in range(3)
        ]
        assert [r.headers[0][0] for r in found] == ["fine", "\ufffd\ufffd", "grüße"]
        assert all(tuple(r.headers[1]) == ("schema", b"tick/1") for r in found)
    assert not records.has_next()


def test_names() -> None:
    topics = Topics("kronos", "5m")
    assert topics.all == (
        "kronos.ticks",
        "kronos.ticks.rejected",
        "kronos.ticks.late.5m",
        "kronos.bars.5m",
        "kronos.forecasts.5m",
        "kronos.forecasts.5m.skipped",
    )
    assert group_name(KafkaSettings(), "bars", "5m") == "kronos.bars.5m"
    named = KafkaSettings(group="mine")
    assert group_name(named, "forecasts", "5m", "0a1b2c3d") == "mine.forecasts.5m.0a1b2c3d"
