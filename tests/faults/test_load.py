"""Overload and scale-out with real processes and a real engine."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kronos_stream.wire.partitioning import partition_of
from tests.faults.engine_faults import SLOWER_VARIABLE
from tests.faults.members import Member
from tests.faults.observer import read_topic
from tests.services.processes import free_ports

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

LOOKBACK = 16
SMALL = ("--lookback", str(LOOKBACK), "--horizon", "2", "--paths", "2", "--threads", "1")
SESSION = (
    *("--set", "kafka.session_timeout_ms=4000", "--set", "kafka.heartbeat_ms=500"),
    *("--set", "kafka.rebalance_timeout_ms=4000"),
)


def until(condition: Callable[[], bool], members: Sequence[Member]) -> None:
    """Waits; AssertionError with its log where a member ends meanwhile."""
    while not condition():
        for member in members:
            assert not member.ended(), member.log.read_text()[-3000:]
        time.sleep(0.1)


class Deployment:
    """One prefix on a broker, its topics, and the members that a test starts."""

    def __init__(
        self, kafka: str, redis: str, prefix: str, folder: Path, *, partitions: int
    ) -> None:
        self.kafka, self.redis, self.prefix, self.folder = kafka, redis, prefix, folder
        # The same number of symbols in each partition.
        names = [f"S{i}USDT" for i in range(500)]
        self.symbols = [
            next(n for n in names if partition_of(n, partitions) == p) for p in range(partitions)
        ]
        self.members: list[Member] = []
        self.ports: dict[str, int] = {}
        self.where = ("--kafka", kafka, "--topic-prefix", prefix, "--interval", "1m")
        self.stage = (*self.where, "--symbols", ",".join(self.symbols), "--log-format", "json")
        self.run("topics", "--create", *self.where, "--partitions", str(partitions))

    def run(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "kronos_stream", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    def start(self, name: str, stage: str, *arguments: str) -> Member:
        (self.ports[name],) = free_ports(1)
        arguments = (*SESSION, *arguments, "--metrics-port", str(self.ports[name]))
        member = Member(name, stage, [*self.stage, *arguments], self.folder, None)
        self.members.append(member)
        until(member.assigned, [member])
        return member

    def trouble(self, member: Member) -> dict[str, str]:
        """What /healthz and /readyz of a member find wrong."""
        wrong: dict[str, str] = {}
        for path in ("healthz", "readyz"):
            url = f"http://127.0.0.1:{self.ports[member.name]}/{path}"
            try:
                with urllib.request.urlopen(url, timeout=10) as reply:
                    wrong |= json.load(reply)["wrong"]
            except urllib.error.HTTPError as error:
                wrong |= json.load(error)["wrong"]
        return wrong

    def feed(self, bars: int) -> None:
        """So many closes of every symbol; returns once all ticks are written."""
        more = ("--feed", "simulated", "--speed", "max", "--bars", str(bars))
        self.run("feed", *self.stage, *more)

    def records(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(s.value) for s in read_topic(self.kafka, f"{self.prefix}.{topic}")]

    def live_bars(self) -> set[tuple[str, int]]:
        bars = self.records("bars.1m")
        return {(b["symbol"], b["open_time"]) for b in bars if not b["history"]}

    def told(self, topic: str) -> set[tuple[str, int]]:
        return {(r["symbol"], r["open_time"]) for r in self.records(topic)}

    def close(self) -> None:
        for member in self.members:
            member.close()


@pytest.fixture
def deployment(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> Iterator[Deployment]:
    made = Deployment(kafka_bootstrap, redis_url, topic_prefix, tmp_path, partitions=8)
    yield made
    made.close()


def resident_mib(pid: int) -> float:
    """Memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (held,) = [line for line in lines if line.startswith("VmRSS")]
    return int(held.split()[1]) / 1024


def test_a_slow_engine_sheds_forecasts_and_never_bars(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch takes ten times as long, and a flood of bars closes meanwhile: each due bar has a
    forecast or a record that says why not, and the newest of each symbol is forecast."""
    monkeypatch.setenv(SLOWER_VARIABLE, "10")
    deployment.start("bars", "bars", "--feed", "simulated")
    slow = deployment.start(
        *("forecast", "forecast", "--redis", deployment.redis, *SMALL, "--shed", "on"),
        *("--feed", "simulated", "--set", "model.max_batch=4"),
    )
    before = resident_mib(slow.pid)
    deployment.feed(120)
    due = len(deployment.symbols) * 120

    def told() -> set[tuple[str, int]]:
        return deployment.told("forecasts.1m") | deployment.told("forecasts.1m.skipped")

    # Behind, but alive and of use: a balancer that took it away would only make it worse.
    assert len(told()) < due
    assert deployment.trouble(slow) == {}
    until(lambda: len(told()) >= due, deployment.members)
    bars = deployment.live_bars()
    assert told() == bars
    skipped = deployment.told("forecasts.1m.skipped")
    assert skipped
    for symbol in deployment.symbols:
        newest = max(at for name, at in bars if name == symbol)
        assert (symbol, newest) in deployment.told("forecasts.1m")
    # 960 bars have passed; unbounded it would hold each one's window and more.
    assert resident_mib(slow.pid) - before < 60


def test_a_second_member_takes_half_and_gives_it_back(deployment: Deployment) -> None:
    """Not a forecast is missing while the shares change hands, and none is conflicting."""
    forecast = ("--redis", deployment.redis, *SMALL, "--feed", "simulated", "--shed", "off")
    deployment.start("bars", "bars", "--feed", "simulated")
    first = deployment.start("first", "forecast", *forecast)

    def whole() -> bool:
        return deployment.told("forecasts.1m") == deployment.live_bars()

    deployment.feed(6)
    until(whole, deployment.members)
    second = deployment.start("second", "forecast", *forecast)
    until(lambda: _share(first) == _share(second) == 4, deployment.members)
    until(lambda: deployment.trouble(first) == deployment.trouble(second) == {}, [first, second])
    deployment.feed(6)
    until(whole, deployment.members)
    deployment.members.remove(second)
    second.close()
    deployment.feed(6)
    until(whole, deployment.members)
    until(lambda: _share(first) == 8, deployment.members)
    until(lambda: deployment.trouble(first) == {}, [first])
    assert len(deployment.live_bars()) >= 8 * 12


def _share(member: Member) -> int:
    """Partitions that a member was last assigned."""
    lines = [x for x in member.log.read_text().splitlines() if "forecasts_assigned" in x]
    return len(json.loads(lines[-1])["partitions"]) if lines else 0
