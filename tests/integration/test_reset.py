"""Bars and forecasts that are forgotten from a point in time on are made again, the same."""

import asyncio
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from kronos_stream.checks import create_topics
from kronos_stream.cli import main
from kronos_stream.errors import BrokerError
from kronos_stream.forecasts.keep_first import comparable
from kronos_stream.reset import reset
from kronos_stream.settings import Settings
from kronos_stream.subscribe import follow
from kronos_stream.wire.messages import Bar, Forecast
from tests.faults.observer import read_topic
from tests.samples import bar, forecast

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

START = 1_735_689_600_000
STEP = 300_000
BARS = 8
CUT = START + 3 * STEP
"""Open time of the first bar that is made again."""


@contextmanager
def running(*arguments: str) -> Iterator[None]:
    """A stage, stopped in good order so that it leaves its group."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kronos_stream", *arguments], stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


class Made:
    """What the topics hold."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self._kafka, self._prefix = kafka, prefix

    def bars(self) -> list[Bar]:
        seen = read_topic(self._kafka, f"{self._prefix}.bars.5m")
        return [msgspec.json.decode(s.value, type=Bar) for s in seen]

    def forecasts(self) -> list[Forecast]:
        seen = read_topic(self._kafka, f"{self._prefix}.forecasts.5m")
        return [comparable(msgspec.json.decode(s.value, type=Forecast)) for s in seen]


def test_what_was_forgotten_is_made_again(
    kafka_bootstrap: str,
    redis_url: str,
    topic_prefix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--kafka", kafka_bootstrap, "--topic-prefix", topic_prefix, "--redis", redis_url]
    stage = [*where, "--symbols", "BTCUSDT,ETHUSDT", "--feed", "simulated"]
    feed = ["--speed", "max", "--bars", str(BARS), "--partitions", "2"]
    small = ["--lookback", "32", "--horizon", "2", "--paths", "3", "--threads", "1"]
    run = [sys.executable, "-m", "kronos_stream", "run", *stage, *feed, *small]
    subprocess.run(run, check=True, capture_output=True, timeout=90)
    made = Made(kafka_bootstrap, topic_prefix)
    bars, forecasts = made.bars(), made.forecasts()
    assert len(forecasts) == 2 * BARS

    for what in ("forecasts", "bars"):
        reset = ["reset", what, *where, "--from", "2025-01-01T00:15"]
        assert main(reset) == 0
        assert "would: " in capsys.readouterr().out
        assert made.forecasts() == forecasts
        assert main([*reset, "--yes"]) == 0
        assert (
            f"{topic_prefix}.forecasts.5m: 10 records forgotten, 6 kept" in capsys.readouterr().out
        )
        assert made.forecasts() == [f for f in forecasts if f.open_time < CUT]
        kept = [b for b in bars if b.open_time < CUT] if what == "bars" else bars
        assert made.bars() == kept

        if what == "bars":
            with running("bars", *stage[:4], "--symbols", "BTCUSDT,ETHUSDT", "--feed", "simulated"):
                while made.bars() != bars:
                    time.sleep(0.1)
        with running("forecast", *stage, *small):
            while len(made.forecasts()) < len(forecasts):
                time.sleep(0.1)
        assert made.forecasts() == forecasts


def test_a_running_stage_is_in_the_way(
    kafka_bootstrap: str, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--kafka", kafka_bootstrap, "--topic-prefix", topic_prefix]
    assert main(["topics", "--create", *where, "--partitions", "1"]) == 0
    reset = ["reset", "bars", *where, "--from", str(CUT)]
    with running("bars", *where, "--symbols", "BTCUSDT"):
        while main(reset) == 0:
            time.sleep(0.1)
    assert "stop the stages before a reset" in capsys.readouterr().err


def written(kafka: str, prefix: str, topic: str, *made: tuple[bytes, int]) -> None:
    """Writes values with their record times (0: now) to partition 0 of a topic."""
    producer = Producer({"bootstrap.servers": kafka})
    for value, timestamp in made:
        producer.produce(f"{prefix}.{topic}", value, partition=0, timestamp=timestamp)
    assert producer.flush(10) == 0


def test_corrections_stay_with_the_bars_that_they_correct(
    kafka_bootstrap: str, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--kafka", kafka_bootstrap, "--topic-prefix", topic_prefix]
    assert main(["topics", "--create", *where, "--partitions", "1"]) == 0
    live = [bar(index=i) for i in range(4)]
    wrong = bar(index=1, revision=1), bar(index=3, revision=1)
    json = msgspec.json.encode
    values = [
        *((json(b), b.open_time) for b in live[:2]),
        (json(wrong[0]), 0),
        (b"junk", CUT - 1),
        *((json(b), b.open_time) for b in live[2:]),
        (json(wrong[1]), 0),
        (b"junk", CUT),
    ]
    written(kafka_bootstrap, topic_prefix, "bars.5m", *values)
    group = f"{topic_prefix}.forecasts.5m.g"
    consumer = Consumer({"bootstrap.servers": kafka_bootstrap, "group.id": group})
    place = TopicPartition(f"{topic_prefix}.bars.5m", 0, len(values))
    consumer.commit(offsets=[place], asynchronous=False)
    capsys.readouterr()

    assert main(["reset", "forecasts", *where, "--from", str(CUT), "--yes"]) == 0
    (moved,) = consumer.committed([place], 10)
    assert moved.offset == 5  # Neither the old bar's correction nor the junk before it.
    capsys.readouterr()
    reset = ["reset", "bars", *where, "--from", str(CUT)]
    told = f"{topic_prefix}.bars.5m: 3 records forgotten (1 of them corrections), 5 kept"
    assert main(reset) == 0
    assert f"would: {told}" in capsys.readouterr().out
    assert main([*reset, "--yes"]) == 0
    assert told in capsys.readouterr().out
    kept = read_topic(kafka_bootstrap, f"{topic_prefix}.bars.5m")
    assert [s.value for s in kept] == [value for value, _ in values[:5]]
    opens = [b.open_time for b in (*live[:2], wrong[0])]
    assert [s.timestamp for s in kept] == [*opens, CUT - 1, live[2].open_time]
    (moved,) = consumer.committed([place], 10)
    assert moved.offset == 5
    consumer.close()


@pytest.mark.parametrize(
    ("index", "changes", "status"),
    [(2, {}, 0), (3, {}, 2), (3, {"history": True}, 0), (3, {"revision": 1}, 0)],
)
def test_ticks_that_are_gone_are_missed_only_for_bars_that_they_made(
    index: int,
    changes: dict[str, Any],
    status: int,
    kafka_bootstrap: str,
    topic_prefix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--kafka", kafka_bootstrap, "--topic-prefix", topic_prefix]
    assert main(["topics", "--create", *where, "--partitions", "1"]) == 0
    made = bar(index=index, **changes)
    written(kafka_bootstrap, topic_prefix, "bars.5m", (msgspec.json.encode(made), made.open_time))
    tick = f'{{"symbol": "BTCUSDT", "price": "1", "qty": "1", "time": {made.open_time}}}'
    written(kafka_bootstrap, topic_prefix, "ticks", (tick.encode(), 0))
    gone = TopicPartition(f"{topic_prefix}.ticks", 0, 1)
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.delete_records([gone])[gone].result(20)
    assert main(["reset", "bars", *where, "--from", str(CUT), "--yes"]) == status
    told = capsys.readouterr().err
    assert (f"{topic_prefix}.ticks/0 has no ticks left" in told) == bool(status)


class Counted(io.StringIO):
    """Tells when so many lines are written."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._lines = lines
        self.full = asyncio.Event()

    def flush(self) -> None:
        if self.getvalue().count("\n") == self._lines:
            self.full.set()


async def test_a_subscriber_is_told_that_the_topic_was_made_anew(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    given = {"kafka": {"bootstrap": kafka_bootstrap, "topic_prefix": topic_prefix, "partitions": 1}}
    settings = msgspec.convert(given, Settings)
    await create_topics(settings, lambda line: None)
    made = [(msgspec.json.encode(forecast(index=i)), START + i * STEP) for i in range(4)]
    written(kafka_bootstrap, topic_prefix, "forecasts.5m", *made)
    out = Counted(len(made))
    following = asyncio.create_task(
        follow(settings, out, as_json=True, from_beginning=True, count=9)
    )
    await out.full.wait()
    await reset(settings, "forecasts", CUT, do=True, say=lambda line: None)
    with pytest.raises(BrokerError, match="the topic was made anew"):
        await following


def test_the_time_must_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reset", "bars", "--kafka", "h:1", "--from", "yesterday"]) == 2
    assert "2025-01-31T09:30" in capsys.readouterr().err
