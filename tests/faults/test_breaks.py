"""The checks can fail: each promise, broken from outside, is found out by the same checks.

In process, over a broker in memory and a real store: the forecast stage dies once at every step in
turn, a successor finishes, and the verdict is asked. Unbroken it finds nothing, broken it must
find something; the campaign on a real broker says the same of `make chaos BREAK=...`.
"""

import asyncio

import pytest

from kronos_stream.context.window import Window
from kronos_stream.forecasts.keep_first import comparable
from kronos_stream.wire.codecs import decode
from kronos_stream.wire.messages import Bar, Forecast
from tests.fakes import Crash, FakeBroker, FakeCluster, steps_until
from tests.forecasts.test_service import (
    GROUP,
    LIVE,
    LOOKBACK,
    SYMBOLS,
    from_the_beginning,
    service_of,
    topic_of,
    until,
)

from .breaks import BREAKS
from .verdict import Verdict, kept

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

STEPS = range(4, 120, 4)


async def _died_and_succeeded(crash_at: int, url: str, prefix: str) -> Verdict:
    """One death and one successor that works until all is committed."""
    cluster = FakeCluster(partitions=2)
    written = topic_of(cluster)
    from_the_beginning(cluster)
    for fault in (steps_until(crash_at), None):
        broker = FakeBroker(cluster, fault=fault)
        async with service_of(broker, url, prefix) as service:
            task = asyncio.create_task(service.run())
            try:
                await until(lambda: _is_finished(cluster), task)
            except* Crash:
                assert fault is not None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    return _verdict(cluster, written)


def _is_finished(cluster: FakeCluster) -> bool:
    topic = FakeBroker(cluster).topics.bars
    ends = [cluster.commits[GROUP, topic, p].offset for p in range(2)]
    return ends == [LOOKBACK + LIVE] * 2


def _verdict(cluster: FakeCluster, written: list[Bar]) -> Verdict:
    verdict = Verdict()
    records = cluster.records(FakeBroker(cluster).topics.forecasts)
    made = [decode(r.value, r.headers, Forecast) for r in records]
    first = kept(verdict, "forecast", (((f.symbol, f.open_time), comparable(f)) for f in made))
    for symbol in SYMBOLS:
        bars = [b for b in written if b.symbol == symbol]
        for i, bar in enumerate(bars):
            if bar.history:
                continue
            found = first.get((symbol, bar.open_time))
            seen = Window.from_bars(bars[max(0, i - LOOKBACK) : i + 1])
            if found is None:
                verdict.tell("missing", f"{symbol} {bar.open_time}")
            elif found.context.digest != seen.digest():
                verdict.tell("wrong", f"{symbol} {bar.open_time}")
    return verdict


async def test_unbroken_nothing_is_found(redis_url: str, topic_prefix: str) -> None:
    for crash_at in STEPS:
        verdict = await _died_and_succeeded(crash_at, redis_url, f"{topic_prefix}{crash_at}")
        assert verdict.clean, verdict.notes


@pytest.mark.parametrize("name", sorted(BREAKS))
async def test_broken_it_is_found_out(
    name: str, redis_url: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    BREAKS[name](monkeypatch.setattr)
    for crash_at in STEPS:
        verdict = await _died_and_succeeded(crash_at, redis_url, f"{topic_prefix}{crash_at}")
        if not verdict.clean:
            return
    pytest.fail(f"{name} went unnoticed")
