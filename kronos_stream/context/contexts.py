"""Appends that always end in the right window: the store first, the bars topic where it falls
short (a hole in the chain, a short window, an empty store)."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from .. import telemetry
from ..kafka import Broker
from ..wire.bars import decode_bar
from ..wire.intervals import INTERVAL_MS
from ..wire.messages import Bar
from .store import Appended, ContextStore
from .window import Window

log = structlog.get_logger()

READ_BATCH: Final = 2_000
"""Bars held in memory while a context is rebuilt."""


class Contexts:
    """The contexts of the symbols that this process owns. `want` bars make a window whole, `keep`
    are held in the store."""

    def __init__(self, store: ContextStore, broker: Broker, *, want: int, keep: int) -> None:
        self._store = store
        self._broker = broker
        self._want = want
        self._keep = keep
        self._whole: dict[str, int] = {}
        """Of symbols that the whole topic has too few bars of: how many there are. With as many in
        the store, looking again finds no more."""

    async def append(self, bar: Bar, partition: int, offset: int) -> Window | None:
        """The window that ends with `bar`, as the topic stood when its record was written; none of
        a correction, which triggers no forecast."""
        appended = await self._store.append(bar, offset, want=self._want)
        telemetry.CONTEXT.labels(appended.status).inc()
        if bar.revision:
            return None
        if appended.status == "hole" or self._is_short(bar, appended):
            return await self._refilled(bar, partition, offset)
        if bar.symbol in self._whole:
            self._whole[bar.symbol] = max(self._whole[bar.symbol], _length(appended))
        return appended.window

    async def extend(self, history: Sequence[tuple[Bar, int]]) -> None:
        """Inserts history bars with the offsets of their records."""
        await self._store.extend(history)
        telemetry.CONTEXT.labels("history").inc(len(history))

    async def window(self, bar: Bar, offset: int) -> Window | None:
        """The window that ends with a bar that is already there."""
        return (await self._store.append(bar, offset, want=self._want)).window

    def _is_short(self, bar: Bar, appended: Appended) -> bool:
        return _length(appended) < min(self._want, self._whole.get(bar.symbol, self._want))

    async def _refilled(self, bar: Bar, partition: int, offset: int) -> Window | None:
        appended = await self._reread(bar, partition, offset)
        short = appended.status == "hole" or _length(appended) < self._want
        if short and await self._store.holds_later(bar):
            # The group was set back. What is held is trimmed from its old end, so that nothing so
            # old can enter; the later bars come again.
            await self._store.clear(bar.symbol)
            appended = await self._reread(bar, partition, offset)
        telemetry.REFILLS.inc()
        log.info(
            "context_refilled",
            symbol=bar.symbol,
            open_time=bar.open_time,
            status=appended.status,
            bars=_length(appended),
        )
        return appended.window

    async def _reread(self, bar: Bar, partition: int, offset: int) -> Appended:
        """As far as a full context reaches, and to the beginning if that is short."""
        topic = self._broker.topics.bars
        begin = (await self._broker.begin_offsets(topic, [partition]))[partition]
        reach_ms = self._keep * INTERVAL_MS[bar.interval]
        found = await self._broker.offsets_for_times(topic, {partition: bar.open_time - reach_ms})
        upper = offset
        counts: Counter[str] = Counter()
        for start in (max(begin, min(found[partition], offset)), begin):
            if start < upper or start == begin:
                counts += await self._read_back(partition, start, upper)
                upper = start
            appended = await self._store.append(bar, offset, want=self._want)
            if appended.status != "hole" and _length(appended) >= self._want:
                self._whole.pop(bar.symbol, None)
                return appended
        # Of the others of this partition the topic has no more either.
        short = {symbol: n for symbol, n in counts.items() if n < self._want}
        self._whole |= short | {bar.symbol: _length(appended)}
        return appended

    async def _read_back(self, partition: int, start: int, end: int) -> Counter[str]:
        """All symbols of the partition at once: when the store is emptied, each of them is due.
        How many records each of them has there."""
        counts: Counter[str] = Counter()
        batch: list[tuple[Bar, int]] = []
        async for records in self._broker.read(self._broker.topics.bars, partition, start, end):
            for record in records:
                try:
                    bar = decode_bar(record.value, record.headers)
                except (msgspec.ValidationError, msgspec.DecodeError):
                    # The stage itself rejects it when it comes to it.
                    continue
                batch.append((bar, record.offset))
                counts[bar.symbol] += 1
            if len(batch) >= READ_BATCH:
                await self._store.extend(batch)
                batch = []
        await self._store.extend(batch)
        return counts


def _length(appended: Appended) -> int:
    return 0 if appended.window is None else len(appended.window)
