"""What a forecast process says of itself while its store and its engine come and go."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.services.processes import free_ports
from tests.services.valkey import Valkey

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

SYMBOL = "BTCUSDT"


class Stages:
    """A bars, a forecast and a feed process; the metrics of the second at `port`."""

    def __init__(self, bootstrap: str, prefix: str, redis: str, folder: Path) -> None:
        (self.port,) = free_ports(1)
        where = ("--kafka", bootstrap, "--topic-prefix", prefix, "--symbols", SYMBOL)
        where += ("--interval", "1m", "--partitions", "1", "--feed", "simulated")
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._start("topics", "--create", *where[:4], "--interval", "1m", "--partitions", "1")
        assert self._processes["topics"].wait(60) == 0
        self._start("bars", *where)
        self._start(
            *("forecast", *where, "--redis", redis, "--metrics-port", str(self.port)),
            *("--lookback", "16", "--horizon", "2", "--paths", "2", "--threads", "1"),
            *("--set", "redis.timeout_s=1"),
        )
        self.until(lambda: self.ready() == {})
        self._start("feed", *where, "--speed", "60")

    def _start(self, stage: str, *arguments: str) -> None:
        with (self._folder / f"{stage}.log").open("wb") as output:
            self._processes[stage] = subprocess.Popen(
                [sys.executable, "-m", "kronos_stream", stage, *arguments],
                stdout=output,
                stderr=output,
            )

    def ready(self) -> dict[str, str] | None:
        """What is wrong with the forecast process; None: it does not answer."""
        return self._asked("readyz")

    def lives(self) -> bool:
        """Whether /healthz is content."""
        return self._asked("healthz") == {}

    def metric(self, line: str) -> float:
        """The value of one line of the metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as reply:
            found = [x for x in reply.read().decode().splitlines() if x.startswith(line + " ")]
        return float(found[0].split()[-1]) if found else 0.0

    def _asked(self, path: str) -> dict[str, str] | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=5) as r:
                return json.load(r)["wrong"]
        except urllib.error.HTTPError as error:
            return json.load(error)["wrong"]
        except OSError:
            return None

    def engine(self) -> int:
        """The engine's process id."""
        pid = self._processes["forecast"].pid
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, listed.read_text().split()):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child
        raise ProcessLookupError("no engine")

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits; AssertionError where a process ends meanwhile."""
        while not condition():
            for stage, process in self._processes.items():
                log = (self._folder / f"{stage}.log").read_text
                assert process.poll() in (None, 0), f"{stage} ended:\n{log()[-2000:]}"
            time.sleep(0.05)

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    valkey = Valkey()
    yield valkey
    valkey.close()


@pytest.fixture
def stages(
    kafka_bootstrap: str, topic_prefix: str, valkey: Valkey, tmp_path: Path
) -> Iterator[Stages]:
    stages = Stages(kafka_bootstrap, topic_prefix, valkey.url, tmp_path)
    yield stages
    stages.close()


def test_the_store_and_the_engine_go_and_come_back_and_it_tells(
    stages: Stages, valkey: Valkey
) -> None:
    stages.until(lambda: stages.metric("kronos_forecasts_total") > 2)
    valkey.kill()
    stages.until(lambda: "the store does not answer" in (stages.ready() or {}).get("forecast", ""))
    assert stages.lives()
    valkey.start()
    stages.until(lambda: stages.ready() == {})
    assert stages.metric("kronos_store_waits_total") >= 1
    made = stages.metric("kronos_forecasts_total")
    stages.until(lambda: stages.metric("kronos_forecasts_total") > made)

    os.kill(stages.engine(), signal.SIGKILL)
    stages.until(lambda: "engine" in (stages.ready() or {}))
    assert stages.lives()
    stages.until(lambda: stages.ready() == {})
    assert stages.metric("kronos_engine_restarts_total") == 1
