"""A backlog: what waits keeps its place, and the store keeps what it needs."""

import asyncio
from collections.abc import Sequence

from kronos_stream.engine.messages import EngineReply, EngineRequest
from tests.fakes import FakeBroker, FakeCluster

from .fake_engine import FakeEngine
from .test_service import (
    GROUP,
    LOOKBACK,
    SETTINGS,
    SPEC,
    SYMBOLS,
    all_due,
    assert_right,
    forecasts,
    from_the_beginning,
    running,
    service_of,
    topic_of,
    until,
)


async def test_a_rebalance_does_not_put_a_forecast_behind_later_ones(
    redis_url: str, topic_prefix: str
) -> None:
    """Found by the campaign: it waited behind a backlog, so long that after a crash the store no
    longer held its window, and it was taken for one that is not due."""
    cluster = FakeCluster(partitions=2)
    written = topic_of(cluster)
    from_the_beginning(cluster)

    read = asyncio.Event()

    class Rebalancing(FakeEngine):
        async def forecast(self, requests: Sequence[EngineRequest]) -> list[EngineReply]:
            if not read.is_set():
                await service._subscription.idle()  # type: ignore[attr-defined]
                read.set()
                cluster.rebalance(GROUP)
            return await super().forecast(requests)

    async with (
        service_of(
            FakeBroker(cluster), redis_url, topic_prefix, engine=Rebalancing(SPEC)
        ) as service,
        running(service) as task,
    ):
        await until(all_due(cluster), task)
    assert_right(cluster, written)
    for symbol in SYMBOLS:
        order = [f.open_time for f in forecasts(cluster) if f.symbol == symbol]
        assert order == sorted(order)


async def test_a_backlog_is_read_no_further_than_the_store_reaches(
    redis_url: str, topic_prefix: str
) -> None:
    """It dies while no forecast is out: its heir must still find the window of the first one."""
    cluster, live = FakeCluster(partitions=2), 5 * SETTINGS.context.slack
    written = topic_of(cluster, live=live)
    from_the_beginning(cluster)
    engine = FakeEngine(SPEC)
    engine.forecast = lambda requests: asyncio.Event().wait()  # type: ignore[assignment]
    async with (
        service_of(FakeBroker(cluster), redis_url, topic_prefix, engine=engine) as service,
        running(service) as task,
    ):
        await until(service.ready.is_set, task)
        await service._subscription.idle()  # type: ignore[attr-defined]
        read = LOOKBACK + SETTINGS.context.slack + 1
        assert service.positions() == {0: read, 1: read}
    async with (
        service_of(FakeBroker(cluster), redis_url, topic_prefix) as service,
        running(service) as task,
    ):
        await until(lambda: len({f.id for f in forecasts(cluster)}) == 2 * live, task)
    assert_right(cluster, written)
