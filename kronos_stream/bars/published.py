"""What the bars topic already holds: read back before a ticks partition is folded again."""

from collections.abc import Collection
from typing import Final

import msgspec
import structlog

from ..kafka import Broker
from ..wire.bars import decode_bar
from ..wire.intervals import DAY_MS
from ..wire.messages import Bar

log = structlog.get_logger()

REACHES_MS: Final = (DAY_MS, 8 * DAY_MS)
"""How far back a listed symbol is looked for, after the first window and before all."""
LONGEST_CLOSURE_MS: Final = 35 * DAY_MS
"""No exchange whose calendar can be used is closed for longer."""


async def last_published(
    broker: Broker,
    partition: int,
    *,
    watermark: int | None,
    interval_ms: int,
    expected: Collection[str] | None,
    sessions: bool,
    until: int,
) -> dict[str, Bar]:
    """The newest live bar (made from ticks, revision 0) of each symbol in one bars partition.

    Reads from two intervals before `watermark` (ms; None: from the beginning) to the end, then
    further back, in steps, for the symbols in `expected` that were not found: those silent for
    long, or new. With `expected` None (every symbol that is seen) the search ends after 8 days, or
    with `sessions`, where a market may have been closed, after LONGEST_CLOSURE_MS. What opens after
    `until` (ms) is nobody's bar: it would silence its symbol up to then.
    """
    topic = broker.topics.bars
    begin = (await broker.begin_offsets(topic, [partition]))[partition]
    upper = (await broker.end_offsets(topic, [partition]))[partition]
    found: dict[str, Bar] = {}
    reaches: list[int | None] = [None]
    if watermark is not None:
        reaches = [2 * interval_ms, *REACHES_MS]
        if expected is not None:
            reaches.append(None)
        elif sessions:
            reaches.append(LONGEST_CLOSURE_MS)
    for reach in reaches:
        start = begin
        if reach is not None and watermark is not None:
            at = await broker.offsets_for_times(topic, {partition: watermark - reach})
            start = max(begin, at[partition])
        if start < upper:
            newest = await _newest(broker, partition, start, upper, until)
            for symbol, bar in newest.items():
                if symbol not in found or found[symbol].open_time < bar.open_time:
                    found[symbol] = bar
            upper = start
        if expected is not None and all(symbol in found for symbol in expected):
            break
    return found


async def _newest(
    broker: Broker, partition: int, start: int, end: int, until: int
) -> dict[str, Bar]:
    newest: dict[str, Bar] = {}
    async for records in broker.read(broker.topics.bars, partition, start, end):
        for record in records:
            try:
                bar = decode_bar(record.value, record.headers)
            except (msgspec.ValidationError, msgspec.DecodeError) as error:
                log.warning(
                    "bar_unreadable", partition=partition, offset=record.offset, error=str(error)
                )
                continue
            if bar.history or bar.revision:
                continue
            if bar.open_time > until:
                log.warning(
                    "bar_of_the_future",
                    partition=partition,
                    offset=record.offset,
                    symbol=bar.symbol,
                    open_time=bar.open_time,
                )
                continue
            if bar.symbol not in newest or newest[bar.symbol].open_time < bar.open_time:
                newest[bar.symbol] = bar
    return newest
