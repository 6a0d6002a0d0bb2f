"""The whole run, as a user starts it: a process, its output, a foreign client, Ctrl-C, again."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from kronos_stream.cli import main
from kronos_stream.forecasts.keep_first import comparable
from kronos_stream.wire.messages import Forecast

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SYMBOLS = ("BTCUSDT", "ETHUSDT")
ADDRESS = re.compile(r"\b[\w.-]+:\d+\b")
STOP_S = 5.0
STEP_MS = 300_000


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A `kronos-stream` process, which is ended whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kronos_stream", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listed.read_text().split()):
            found += [child, *descendants(child)]
    return found


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended may wait for its new parent as a zombie."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def read(bootstrap: str, topic: str, enough: Callable[[list[Any]], bool]) -> list[Any]:
    """Records of a topic from its beginning, with another project's client, until enough."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "foreign"})
    records: list[Any] = []
    try:
        while not (found := consumer.list_topics(topic, timeout=10).topics[topic].partitions):
            pass
        consumer.assign([TopicPartition(topic, p, 0) for p in found])
        while not enough(records):
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                records.append(json.loads(message.value()))
    finally:
        consumer.close()
    return records


def each(count: int) -> Callable[[list[Any]], bool]:
    """Whether there are `count` records of each symbol."""
    return lambda records: all(sum(r["symbol"] == s for r in records) >= count for s in SYMBOLS)


def test_embedded_run_feeds_a_foreign_client_and_stops_cleanly() -> None:
    with command("run", "--symbols", ",".join(SYMBOLS), "--speed", "300") as process:
        assert process.stdout is not None
        address = ADDRESS.search(process.stdout.readline())
        assert address is not None
        records = read(address.group(0), "kronos.forecasts.5m", each(2))
        children = descendants(process.pid)
        assert len(children) >= 2
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
        assert time.monotonic() - began < STOP_S
    assert process.returncode == 0, complaints
    while any(map(alive, children)):
        assert time.monotonic() - began < STOP_S
    for record in records:
        forecast = msgspec.convert(record, Forecast)
        assert forecast.context.length == forecast.spec.lookback + 1
        assert forecast.context.missing == 0
        median = forecast.quantile_levels.index(0.5)
        assert len(forecast.quantiles["close"]) == forecast.spec.horizon
        assert forecast.quantiles["close"][-1][median] > 0


def test_a_session_market_streams_over_a_weekend_and_a_clock_change(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    """New York, 8 to 11 March 2024: the clocks change on Sunday, so Monday opens an hour earlier
    in UTC. Seeded bars of the days before are the history."""
    friday, monday = _utc("2024-03-08T20:00"), _utc("2024-03-11T13:30")
    live = [
        *range(friday, _utc("2024-03-08T21:00"), STEP_MS),
        *range(monday, monday + 6 * STEP_MS, STEP_MS),
    ]
    before = [
        opens
        for day in range(1, 9)
        if day not in (2, 3)
        for opens in range(_utc(f"2024-03-0{day}T14:30"), _utc(f"2024-03-0{day}T21:00"), STEP_MS)
        if opens < friday
    ]
    rng = random.Random(7)
    rows = [_bar(opens, 100 + rng.random()) for opens in before]
    (tmp_path / "ACME.csv").write_text("open_time,open,high,low,close,volume\n" + "".join(rows))
    with (tmp_path / "ticks.jsonl").open("w") as ticks:
        for number, opens in enumerate(live):
            for second in (0, 299):
                price = f"{100 + rng.random():.2f}"
                tick = {"symbol": "ACME", "price": price, "qty": 1, "time": opens + second * 1000}
                ticks.write(json.dumps(tick | {"trade_id": 2 * number + second % 2}) + "\n")
    run = (
        *("run", "--symbols", "ACME", "--calendar", "XNYS", "--lookback", "96", "--speed", "max"),
        *("--feed", f"replay:{tmp_path / 'ticks.jsonl'}", "--history", str(tmp_path / "ACME.csv")),
        *("--kafka", kafka_bootstrap, "--redis", redis_url, "--topic-prefix", topic_prefix),
    )
    with command(*run) as process:
        _, complaints = process.communicate(timeout=60)
        assert process.returncode == 0, complaints
    due = len(live) - 2
    records = read(kafka_bootstrap, f"{topic_prefix}.forecasts.5m", lambda r: len(r) >= due)
    bars = read(
        kafka_bootstrap,
        f"{topic_prefix}.bars.5m",
        lambda found: sum(not bar["history"] for bar in found) >= due,
    )
    # The first bar was under way when the ticks began, and is the one that a context misses; the
    # last one was when they ended.
    assert [b["open_time"] for b in bars if not b["history"]] == live[1:-1]
    assert not any(b["synthetic"] for b in bars)
    at_the_bell = next(r for r in records if r["open_time"] == live[11])
    assert at_the_bell["step_open_times"][0] == monday
    assert at_the_bell["context"]["missing"] == 1


def _utc(text: str) -> int:
    return int(datetime.fromisoformat(text + "+00:00").timestamp() * 1000)


def _bar(open_time: int, close: float) -> str:
    return f"{open_time},{close},{close + 1},{close - 1},{close},10\n"


def test_run_twice_on_a_real_broker_and_the_offline_record_is_the_same(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    where = ("--kafka", kafka_bootstrap, "--topic-prefix", topic_prefix)
    run = (
        *("run", "--symbols", ",".join(SYMBOLS), "--feed", "simulated", "--speed", "max"),
        *("--bars", "3", "--redis", redis_url, *where, "--partitions", "2"),
    )
    for _ in range(2):
        with command(*run) as process:
            out, complaints = process.communicate(timeout=60)
            assert process.returncode == 0, complaints
            assert kafka_bootstrap in out.splitlines()[0]
    forecasts = read(kafka_bootstrap, f"{topic_prefix}.forecasts.5m", each(6))
    assert len({f["id"] for f in forecasts}) == len(forecasts) == 12
    bars = read(
        kafka_bootstrap,
        f"{topic_prefix}.bars.5m",
        lambda records: each(6)([r for r in records if not r["history"]]),
    )
    live = [b for b in bars if b["symbol"] == "BTCUSDT" and not b["history"]]
    assert [b["prev_open_time"] for b in live] == [None, *(b["open_time"] for b in live[:-1])]

    last = max((f for f in forecasts if f["symbol"] == "BTCUSDT"), key=lambda f: f["open_time"])
    table = tmp_path / "bars.jsonl"
    rows = [b for b in bars if b["symbol"] == "BTCUSDT" and b["open_time"] <= last["open_time"]]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out_file = tmp_path / "forecast.jsonl"
    offline = ["forecast", "--bars", str(table), "--symbol", "BTCUSDT", "--out", str(out_file)]
    assert main(offline) == 0
    again = msgspec.json.decode(out_file.read_bytes(), type=Forecast)
    assert comparable(again) == comparable(msgspec.convert(last, Forecast))


def test_two_members_of_each_stage_share_the_symbols_and_take_over(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str
) -> None:
    symbols = "BTCUSDT,ETHUSDT,SOLUSDT,XRPUSDT"
    where = ("--kafka", kafka_bootstrap, "--topic-prefix", topic_prefix, "--symbols", symbols)
    session = ("--set", "kafka.session_timeout_ms=4000", "--set", "kafka.heartbeat_ms=1000")
    forecast = (
        *("forecast", "--redis", redis_url, *where, *session),
        *("--shed", "off", "--set", "model.threads=1"),
    )
    with command(
        "topics", "--create", "--kafka", kafka_bootstrap, "--topic-prefix", topic_prefix
    ) as process:
        process.communicate(timeout=30)
        assert process.returncode == 0
    with (
        command(*forecast) as first,
        command(*forecast) as second,
        command("bars", *where, *session) as bars,
    ):
        members = (first, second)
        for member in members:
            _wait_for(member, "forecasts_assigned")
        _wait_for(bars, "bars_assigned")
        with command(
            "feed", "--feed", "simulated", "--speed", "max", "--bars", "2", *where
        ) as feed:
            feed.communicate(timeout=60)
            assert feed.returncode == 0
        topic = f"{topic_prefix}.forecasts.5m"
        read(kafka_bootstrap, topic, lambda records: len({r["id"] for r in records}) >= 8)
        first.kill()
        with command(
            "feed", "--feed", "simulated", "--speed", "max", "--bars", "2", *where
        ) as feed:
            feed.communicate(timeout=60)
            assert feed.returncode == 0
        records = read(
            kafka_bootstrap, topic, lambda records: len({r["id"] for r in records}) >= 16
        )
    due = {(r["symbol"], r["open_time"]) for r in records}
    assert len(due) == 16


def _wait_for(process: subprocess.Popen[str], event: str) -> None:
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if event in line:
            return
    raise AssertionError(f"{event} did not come: {seen}")
