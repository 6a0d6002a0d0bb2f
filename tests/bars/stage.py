"""The bars stage over a broker in memory, and a feed that writes for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from kronos_stream.bars.service import BarsService
from kronos_stream.settings import (
    BarsSettings,
    FeedSettings,
    KafkaSettings,
    PublishSettings,
    Settings,
)
from kronos_stream.wire.codecs import decode, encode
from kronos_stream.wire.messages import Bar, Marker, Tick
from kronos_stream.wire.partitioning import partition_of
from tests.fakes import FakeBroker, FakeCluster
from tests.tick_sessions import SYMBOLS, session

TICKS, BARS = "kronos.ticks", "kronos.bars.5m"
REJECTED, LATE = "kronos.ticks.rejected", "kronos.ticks.late.5m"
GROUP = "kronos.bars.5m"


def settings_of(
    symbols: tuple[str, ...] | str = SYMBOLS,
    *,
    kafka: dict[str, object] | None = None,
    wire: str = "json",
    feed: str | None = "simulated",
    **bars: object,
) -> Settings:
    return Settings(
        symbols=symbols,  # type: ignore[arg-type]
        feed=FeedSettings(kind=feed),  # type: ignore[arg-type]
        kafka=KafkaSettings(**(kafka or {})),  # type: ignore[arg-type]
        bars=BarsSettings(**bars),  # type: ignore[arg-type]
        publish=PublishSettings(wire=wire),  # type: ignore[arg-type]
    )


class Feed:
    """Writes ticks and markers into the fake cluster, as a feed would."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.last_id = 0

    def tick(self, symbol: str, time: int, price: str = "100", qty: str = "1") -> None:
        self.last_id += 1
        self.write(Tick(symbol=symbol, price=price, qty=qty, time=time, trade_id=self.last_id))

    def marker(self, time: int) -> None:
        self.write(Marker(marker_time=time))

    def session(self, intervals: range, *, seed: int = 7) -> None:
        for message in session(intervals, seed=seed):
            self.write(message)

    def write(self, message: Tick | Marker) -> None:
        value, headers = encode(message)
        n = self.cluster.partitions
        if isinstance(message, Tick):
            key, at = message.symbol.encode(), message.time
            partitions = [partition_of(message.symbol, n)]
        else:
            key, at, partitions = None, message.marker_time, list(range(n))
        for p in partitions:
            self.cluster.append(TICKS, value, partition=p, key=key, timestamp=at, headers=headers)


@contextlib.asynccontextmanager
async def running(
    broker: FakeBroker, settings: Settings | None = None, **more: object
) -> AsyncIterator[BarsService]:
    service = service_of(broker, settings, **more)
    task = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def service_of(broker: FakeBroker, settings: Settings | None = None, **more: object) -> BarsService:
    return BarsService(
        settings or settings_of(),
        broker,  # type: ignore[arg-type]
        commit_every_s=0,
        **more,  # type: ignore[arg-type]
    )


async def until_idle(service: BarsService) -> None:
    """Until everything that is in the log was read, folded and committed."""
    await service.ready.wait()
    await service._subscription.idle()  # type: ignore[attr-defined]


async def folded(broker: FakeBroker, settings: Settings | None = None, **more: object) -> None:
    async with running(broker, settings, **more) as service:
        await until_idle(service)


def bars_of(cluster: FakeCluster) -> list[Bar]:
    return [decode(r.value, r.headers, Bar) for r in cluster.records(BARS)]
