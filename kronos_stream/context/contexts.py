"""Appends that always end in the right window: the store first, the bars topic where it falls
short (a hole in the chain, a short window, an empty store)."""

from collections.abc import AsyncIterator, Sequence
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
FURTHER: Final = 8
"""How many times further back each reading reaches than the one before."""

Placed = tuple[Bar, int]
"""A bar and the offset of its record."""


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
        self.reading: str | None = None
        """The symbol whose context is being read back, which may take minutes."""

    async def append(self, bar: Bar, partition: int, offset: int) -> Window | None:
        """The window that ends with `bar`, as the topic stood when its record was written; none of
        a correction, which triggers no forecast."""
        appended = await self._store.append(bar, offset, want=self._want)
        telemetry.CONTEXT.labels(appended.status).inc()
        if bar.revision:
            return None
        if appended.status == "hole" or self._is_short(bar, appended):
            self.reading = bar.symbol
            try:
                return await self._refilled(bar, partition, offset)
            finally:
                self.reading = None
        if bar.symbol in self._whole:
            self._whole[bar.symbol] = max(self._whole[bar.symbol], _length(appended))
        return appended.window

    async def extend(self, history: Sequence[Placed]) -> None:
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
        """As far as a full context reaches, and further while that is short: bars may lie apart in
        time. Each reading begins anew, and is held once it is whole: nothing that is held has a
        hole that the topic has not."""
        topic = self._broker.topics.bars
        begin = (await self._broker.begin_offsets(topic, [partition]))[partition]
        reach_ms = self._keep * INTERVAL_MS[bar.interval]
        anew = {bar.symbol}
        start: int | None = None
        while start != begin:
            since = max(0, bar.open_time - reach_ms)
            found = await self._broker.offsets_for_times(topic, {partition: since})
            before, start = start, max(begin, min(found[partition], offset))
            reach_ms *= FURTHER
            if start == before and since:
                continue
            if start == begin or not since:
                start, since = begin, 0
            counts = await self._read_back(partition, start, offset, since, anew)
            appended = await self._store.append(bar, offset, want=self._want)
            # A bar that should be in what was read and is not is nowhere.
            nowhere = bar.prev_open_time is not None and bar.prev_open_time >= since
            if _length(appended) >= self._want and (appended.status != "hole" or nowhere):
                self._whole.pop(bar.symbol, None)
                return appended
        # Of the others of this partition the topic has no more either.
        short = {symbol: n for symbol, n in counts.items() if n < self._want}
        self._whole = short | self._whole | {bar.symbol: _length(appended)}
        return appended

    async def _read_back(
        self, partition: int, start: int, end: int, since: int, anew: set[str]
    ) -> dict[str, int]:
        """Writes the contexts of those in `anew`, and of all that hold nothing or only what is
        older, who join them: when the store is emptied, every symbol of the partition is due. What
        opens before `since` (ms), a late correction say, is not all there and left out. How many
        bars each symbol has there, as far as `want`."""
        times: dict[str, set[int]] = {}
        filled: dict[str, bool] = {}
        for symbol in anew:
            await self._store.begin(symbol)
            filled[symbol] = True
        async for batch in self._bars(partition, start, end):
            first: dict[str, Bar] = {}
            for bar, _ in batch:
                if bar.symbol not in filled:
                    first.setdefault(bar.symbol, bar)
                of_symbol = times.setdefault(bar.symbol, set())
                if len(of_symbol) < self._want:
                    of_symbol.add(bar.open_time)
            spans = await self._store.spans(list(first))
            for (symbol, bar), span in zip(first.items(), spans, strict=True):
                if span is None or span.newest < bar.open_time:
                    await self._store.begin(symbol)
                    anew.add(symbol)
                    filled[symbol] = True
                else:
                    # What begins later is whole as it is, or will find out at its own next bar.
                    filled[symbol] = span.oldest <= bar.open_time
            whole = (
                (bar, offset)
                for bar, offset in batch
                if filled[bar.symbol] and (bar.symbol not in anew or bar.open_time >= since)
            )
            await self._store.extend(list(whole), anew)
        await self._store.replace(anew)
        return {symbol: len(of_symbol) for symbol, of_symbol in times.items()}

    async def _bars(self, partition: int, start: int, end: int) -> AsyncIterator[list[Placed]]:
        batch: list[Placed] = []
        async for records in self._broker.read(self._broker.topics.bars, partition, start, end):
            for record in records:
                try:
                    batch.append((decode_bar(record.value, record.headers), record.offset))
                except (msgspec.ValidationError, msgspec.DecodeError):
                    continue  # The stage itself rejects it when it comes to it.
            if len(batch) >= READ_BATCH:
                yield batch
                batch = []
        if batch:
            yield batch


def _length(appended: Appended) -> int:
    return 0 if appended.window is None else len(appended.window)
