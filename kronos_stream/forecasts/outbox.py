"""What leaves the forecast stage: records of forecasts, and of those that are not made."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import structlog

from .. import telemetry
from ..engine.messages import EngineHello, EngineReply
from ..kafka import Broker, Publisher, Record
from ..settings import Settings
from ..wire.codecs import encode
from ..wire.messages import Bar, Forecast, Skipped, Timing
from .owned import Owned
from .record import Due, build_forecast

log = structlog.get_logger()


class Item(NamedTuple):
    """A due forecast on its way, and the bar's record, which is unfinished until then."""

    due: Due
    bar: Bar
    record: Record
    read_ms: int
    owned: Owned
    """Its partition, as it was owned when the record was read."""


class Outbox:
    """Sends records, and counts what was acknowledged. `clock` is wall time in ms."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        publisher: Publisher,
        hello: EngineHello,
        *,
        clock: Callable[[], int],
        on_forecast: Callable[[Forecast, float], None] | None,
        on_skipped: Callable[[Skipped], None] | None,
    ) -> None:
        self._settings = settings
        self._topics = broker.topics
        self._publisher = publisher
        self._hello = hello
        self._clock = clock
        self._on_forecast = on_forecast
        self._on_skipped = on_skipped

    async def send(self, item: Item, reply: EngineReply) -> tuple[Forecast, "asyncio.Future[int]"]:
        """Sends the record of a reply; the future is done when the broker has acknowledged it."""
        forecast = build_forecast(
            item.due,
            reply,
            self._hello,
            levels=self._settings.forecast.quantile_levels,
            with_paths=self._settings.publish.paths,
            timing=Timing(
                bar_read=item.read_ms,
                engine_start=reply.started_ms,
                engine_end=reply.ended_ms,
                published=self._clock(),
            ),
        )
        value, headers = encode(forecast, self._settings.publish.wire)
        acknowledged = await self._publisher.send(
            self._topics.forecasts,
            value,
            partition=item.record.partition,
            key=item.bar.symbol.encode(),
            timestamp=item.bar.open_time,
            headers=headers,
        )
        return forecast, acknowledged

    def count(self, forecast: Forecast, acknowledged_ms: int) -> None:
        """Takes note of an acknowledged record."""
        timing = forecast.timing
        for stage, begin, end in (
            ("queue", timing.bar_read, timing.engine_start),
            ("engine", timing.engine_start, timing.engine_end),
            ("publish", timing.engine_end, acknowledged_ms),
            ("total", timing.bar_read, acknowledged_ms),
        ):
            telemetry.LATENCY.labels(stage).observe(max(0, end - begin) / 1000)
        telemetry.FORECASTS.inc()
        log.debug("forecast_published", symbol=forecast.symbol, open_time=forecast.open_time)
        if self._on_forecast is not None:
            self._on_forecast(forecast, acknowledged_ms - timing.bar_read)

    async def skip(self, forecast_id: str, bar: Bar, reason: str, detail: str) -> None:
        """Sends the record that says why there is no forecast."""
        skipped = Skipped(
            id=forecast_id,
            symbol=bar.symbol,
            interval=bar.interval,
            open_time=bar.open_time,
            reason=reason,
            detail=detail,
        )
        value, headers = encode(skipped, self._settings.publish.wire)
        await self._publisher.send(
            self._topics.skipped,
            value,
            partition=0,
            key=bar.symbol.encode(),
            headers=(*headers, ("reason", reason.encode())),
        )
        telemetry.SKIPPED.labels(reason).inc()
        log.debug("forecast_skipped", symbol=bar.symbol, open_time=bar.open_time, reason=reason)
        if self._on_skipped is not None:
            self._on_skipped(skipped)
