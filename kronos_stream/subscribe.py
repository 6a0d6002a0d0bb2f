"""`kronos-stream subscribe`: forecasts as they come, each id once."""

import asyncio
from typing import Final, TextIO

import msgspec
import structlog

from .errors import BrokerError, SettingsError
from .forecasts.keep_first import KeepFirst
from .kafka import Broker
from .settings import Settings
from .summary import forecast_line
from .wire.codecs import decode
from .wire.messages import Forecast
from .wire.topics import Record

log = structlog.get_logger()

POLL_MS: Final = 200
SILENCE_S: Final = 5.0
"""After so long without a record we ask whether the broker is still there."""
ANSWER_S: Final = 5.0
UNUSABLE: Final = (LookupError, ValueError, ArithmeticError, OSError)
"""What words about a forecast that decodes may fail with; the last is of times no calendar has."""


async def follow(
    settings: Settings, out: TextIO, *, as_json: bool, from_beginning: bool, count: int | None
) -> None:
    """Prints until `count` forecasts are printed, or until cancelled.

    Reads all partitions without a group: nothing is committed, so any number of subscribers see
    every forecast, also on the embedded broker of a `run`. BrokerError when the broker is gone.
    """
    if settings.kafka.bootstrap is None:
        raise SettingsError("kafka.bootstrap: expected HOST:PORT, got none")
    broker = Broker(
        settings.kafka,
        bootstrap=settings.kafka.bootstrap,
        embedded=False,
        interval=settings.bars.interval,
    )
    printer = _Printer(settings, out, as_json)
    topic = broker.topics.forecasts
    subscription = broker.tail(topic)
    loop = asyncio.get_running_loop()
    try:
        await broker.start()
        await subscription.start()
        partitions = range(await broker.partitions(topic))
        places = await (broker.begin_offsets if from_beginning else broker.end_offsets)(
            topic, partitions
        )
        subscription.take_assignment()
        for partition, offset in places.items():
            subscription.seek(partition, offset)
        heard_at = loop.time()
        while count is None or printer.printed < count:
            for records in (await subscription.poll(max_wait_ms=POLL_MS)).values():
                heard_at = loop.time()
                for record in records:
                    if count is None or printer.printed < count:
                        printer.take(record)
            if loop.time() - heard_at > SILENCE_S:
                await _still_there(broker, topic)
                heard_at = loop.time()
    finally:
        await subscription.stop()
        await broker.close()


async def _still_there(broker: Broker, topic: str) -> None:
    try:
        async with asyncio.timeout(ANSWER_S):
            await broker.end_offsets(topic, [0])
    except TimeoutError as error:
        raise BrokerError(f"the broker at {broker.bootstrap} does not answer any more") from error


class _Printer:
    def __init__(self, settings: Settings, out: TextIO, as_json: bool) -> None:
        self._symbols = settings.symbols
        self._out = out
        self._as_json = as_json
        self._keep_first = KeepFirst()
        self.printed = 0

    def take(self, record: Record) -> None:
        try:
            forecast = decode(record.value, record.headers, Forecast)
            line = self._line(forecast)
        except (*UNUSABLE, msgspec.MsgspecError) as error:
            log.warning(
                "not_a_forecast",
                partition=record.partition,
                offset=record.offset,
                error=repr(error),
            )
            return
        wanted = not self._symbols or self._symbols == "all" or forecast.symbol in self._symbols
        if not wanted or not self._keep_first.is_first(forecast):
            return
        self._out.write(line + "\n")
        self._out.flush()
        self.printed += 1

    def _line(self, forecast: Forecast) -> str:
        return msgspec.json.encode(forecast).decode() if self._as_json else forecast_line(forecast)
