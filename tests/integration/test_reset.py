"""Bars and forecasts that are forgotten from a point in time on are made again, the same."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from kronos_stream.cli import main
from kronos_stream.forecasts.keep_first import comparable
from kronos_stream.wire.messages import Bar, Forecast
from tests.faults.observer import read_topic

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


@pytest.mark.parametrize("what", ["bars", "forecasts"])
def test_what_was_forgotten_is_made_again(
    what: str,
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

    reset = ["reset", what, *where, "--from", "2025-01-01T00:15"]
    assert main(reset) == 0
    assert "would: " in capsys.readouterr().out
    assert made.forecasts() == forecasts
    assert main([*reset, "--yes"]) == 0
    assert f"{topic_prefix}.forecasts.5m: 10 records forgotten, 6 kept" in capsys.readouterr().out
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


def test_the_time_must_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reset", "bars", "--kafka", "h:1", "--from", "yesterday"]) == 2
    assert "2025-01-31T09:30" in capsys.readouterr().err
