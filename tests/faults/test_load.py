"""Overload and scale-out with real processes and a real engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.deployment import Deployment, share, until
from tests.faults.engine_faults import SLOWER_VARIABLE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

LOOKBACK = 16
SMALL = ("--lookback", str(LOOKBACK), "--horizon", "2", "--paths", "2", "--threads", "1")


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
    until(lambda: share(first) == share(second) == 4, deployment.members)
    until(lambda: deployment.trouble(first) == deployment.trouble(second) == {}, [first, second])
    deployment.feed(6)
    until(whole, deployment.members)
    deployment.members.remove(second)
    second.close()
    deployment.feed(6)
    until(whole, deployment.members)
    until(lambda: share(first) == 8, deployment.members)
    until(lambda: deployment.trouble(first) == {}, [first])
    assert len(deployment.live_bars()) >= 8 * 12
