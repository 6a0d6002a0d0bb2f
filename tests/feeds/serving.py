"""A feed over a broker in memory, with a clock that only moves when it sleeps."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from kronos_stream.feeds.service import FeedService
from kronos_stream.settings import BarsSettings, FeedSettings, KafkaSettings, Settings
from kronos_stream.wire.messages import Bar
from tests.fakes import FakeBroker


class Clock:
    """Wall time in seconds; sleeping is what makes it pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def service(
    broker: FakeBroker,
    clock: Clock,
    *,
    kind: str = "simulated",
    bars: int | None = 2,
    settings: BarsSettings | None = None,
    symbols: tuple[str, ...] | Literal["all"] = ("BTCUSDT", "ETHUSDT"),
    read_history: Callable[[Path, str], list[Bar]] = lambda path, symbol: [],
    exists: Callable[[str, int], bool] = lambda symbol, open_time: True,
    wall: Callable[[], int] = lambda: 1_900_000_000_000,
    **feed: object,
) -> FeedService:
    return FeedService(
        Settings(
            symbols=symbols,
            kafka=KafkaSettings(),
            bars=settings or BarsSettings(),
            feed=FeedSettings(**feed),  # type: ignore[arg-type]
        ),
        broker,  # type: ignore[arg-type]
        kind=kind,
        read_history=read_history,
        history_bars=20,
        exists=exists,
        bars_limit=bars,
        monotonic=clock,
        wall=wall,
        sleep=clock.sleep,
    )
