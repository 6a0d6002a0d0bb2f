"""A membership that changes, and a clock, while forecasts are under way."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kronos_stream.forecasts import service as service_module
from tests.fakes import FakeBroker, FakeCluster, FakeSubscription
from tests.samples import bar

from .fake_engine import FakeEngine
from .test_service import (
    LIVE,
    LOOKBACK,
    SPEC,
    all_due,
    append,
    assert_right,
    forecasts,
    from_the_beginning,
    running,
    service_of,
    settings_with,
    topic_of,
    until,
)

pytestmark = pytest.mark.integration


class Rebalancing(FakeEngine):
    """In its first batch something happens to the membership."""

    def __init__(self, happens: Callable[[], Awaitable[None]]) -> None:
        super().__init__(SPEC)
        self._happens = happens

    async def forecast(self, requests: Any) -> Any:
        replies = await super().forecast(requests)
        if len(self.batches) == 1:
            await self._happens()
        return replies


async def test_what_was_given_up_while_the_engine_worked_is_not_published(
    redis_url: str, topic_prefix: str
) -> None:
    cluster = FakeCluster(partitions=2)
    topic_of(cluster)
    from_the_beginning(cluster)

    async def taken_away() -> None:
        service._subscription.assign(frozenset({1}))  # type: ignore[attr-defined]
        await until(lambda: set(service._partitions) == {1})

    engine = Rebalancing(taken_away)
    async with (
        service_of(FakeBroker(cluster), redis_url, topic_prefix, engine=engine) as service,
        running(service) as task,
    ):
        await until(lambda: len(forecasts(cluster)) == LIVE, task)
    assert "AAA" in engine.batches[0]
    assert {f.symbol for f in forecasts(cluster)} == {"BBB"}


async def test_during_a_rebalance_the_engine_is_asked_once(
    redis_url: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster(partitions=2)
    written = topic_of(cluster)
    from_the_beginning(cluster)
    owned, asked, made_meanwhile = True, 0, 0

    async def begins() -> None:
        nonlocal owned
        owned = False

    def ownership(subscription: FakeSubscription) -> bool:
        nonlocal owned, asked, made_meanwhile
        if not owned:
            asked += 1
            # It lasts for some polls of both tasks.
            owned = asked > 12
            made_meanwhile = len(engine.batches)
        return owned

    monkeypatch.setattr(FakeSubscription, "owned", property(ownership))
    monkeypatch.setattr(service_module, "POLL_MS", 1)
    engine = Rebalancing(begins)
    async with (
        service_of(FakeBroker(cluster), redis_url, topic_prefix, engine=engine) as service,
        running(service) as task,
    ):
        await until(all_due(cluster), task)
    assert made_meanwhile == 1
    assert_right(cluster, written)


async def test_a_clock_that_is_set_back_holds_no_forecast_up(
    redis_url: str, topic_prefix: str
) -> None:
    """One symbol is silent, so the gate waits for its time, which is not the wall's."""
    cluster = FakeCluster(partitions=2)
    topic_of(cluster, live=1)
    from_the_beginning(cluster)
    wall = iter(range(10**12, 0, -600_000))
    async with (
        service_of(
            FakeBroker(cluster),
            redis_url,
            topic_prefix,
            settings=settings_with(gate_ms=5),
            clock=lambda: next(wall),
        ) as service,
        running(service) as task,
    ):
        await until(lambda: len(forecasts(cluster)) == 2, task)
        last = bar("AAA", LOOKBACK)
        new = bar("AAA", LOOKBACK + 1, prev_open_time=last.open_time)
        append(cluster, FakeBroker(cluster).topics.bars, new)
        await until(lambda: len(forecasts(cluster)) == 3, task)
