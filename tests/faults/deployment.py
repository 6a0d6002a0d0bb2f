"""The stages as processes of their own on a broker: what load tests and benchmarks start."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kronos_stream.wire.partitioning import partition_of
from tests.services.processes import free_ports

from .members import Member
from .observer import read_topic

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


def share(member: Member) -> int:
    """Partitions that a forecast member was last assigned."""
    lines = [x for x in member.log.read_text().splitlines() if "forecasts_assigned" in x]
    return len(json.loads(lines[-1])["partitions"]) if lines else 0
