"""Appends that always end in the right window: the store first, the bars topic where it falls
short (a hole in the chain, a short window, an empty store)."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Final

import msgspec
import structlog

from .. import telemetry
from ..errors import BrokerError
from ..kafka import Broker, Record
from ..wire.bars import bar_of
from ..wire.intervals import DAY_MS, INTERVAL_MS
from ..wire.messages import Bar
from .store import Appended, ContextStore, Placed, Span
from .window import Window

log = structlog.get_logger()

READ_BATCH: Final = 2_000
"""Bars held in memory while a context is rebuilt."""
FURTHER: Final = 8
"""How many times further back each reading reaches than the one before."""

SILENCE_S: Final = 60.0
"""Without a record while some are left, the broker counts as gone."""


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
        known = self._whole.get(bar.symbol, self._want) + (appended.status == "applied")
        return _length(appended) < min(self._want, known)

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
            counts = await self._read_back(bar, partition, start, offset, since)
            if counts is None:
                continue
            appended = await self._store.append(bar, offset, want=self._want)
            # A bar that should be in what was read and is not is nowhere.
            nowhere = bar.prev_open_time is not None and bar.prev_open_time >= since
            if _length(appended) >= self._want and (appended.status != "hole" or nowhere):
                self._whole.pop(bar.symbol, None)
                return appended
        # Of the others of this partition the topic has no more either.
        assert counts is not None
        if counts.pop(bar.symbol, None) is not None:
            self._whole[bar.symbol] = _length(appended)
        short = {symbol: n for symbol, n in counts.items() if n < self._want}
        self._whole = short | self._whole
        return appended

    async def _read_back(
        self, bar: Bar, partition: int, start: int, end: int, since: int
    ) -> dict[str, int] | None:
        """Writes contexts of the partition's symbols anew, aside: when the store is emptied, each
        of them is due. They take the place of that of `bar`, and of those that end before what was
        read. What opens before `since` (ms; 0: all is read), a late correction say, is not all
        there and left out. How many bars each symbol has there, as far as `want`, where its context
        has them all; None, and nothing has changed, where those of `bar` are too few."""
        aside = uuid.uuid4().hex
        read: dict[str, _Read] = {}
        try:
            await self._begin(read, [bar], bar)
            async for batch in self._bars(bar, partition, start, end):
                batch = [(one, offset) for one, offset in batch if one.open_time >= since]
                await self._begin(read, [one for one, _ in batch], bar)
                for one, _ in batch:
                    read[one.symbol].add(one, self._want)
                await self._store.extend(
                    [(one, offset) for one, offset in batch if read[one.symbol].held is not None],
                    aside=aside,
                )
            enough = not since or len(read[bar.symbol].times | {bar.open_time}) >= self._want
            counts = await self._replaced(read, bar, aside, since) if enough else None
        except Exception:
            with suppress(Exception):
                await self._drop(read, aside)
            raise
        await self._drop(read, aside)
        return counts

    async def _drop(self, read: dict[str, "_Read"], aside: str) -> None:
        """What was written aside and not put in its place."""
        written = [symbol for symbol, one in read.items() if one.held is not None]
        await self._store.drop(written, aside)

    async def _begin(self, read: dict[str, "_Read"], bars: Sequence[Bar], trigger: Bar) -> None:
        """Adds those that are new. Written is what holds nothing, or nothing of lately."""
        new = {one.symbol: one for one in reversed(bars) if one.symbol not in read}
        lately = trigger.open_time - 2 * INTERVAL_MS[trigger.interval]
        for (symbol, one), span in zip(
            new.items(), await self._store.spans(list(new)), strict=True
        ):
            read[symbol] = _Read(span, one.prev_open_time)
            if one is trigger or span is None or span.newest < lately:
                read[symbol].held = await self._store.state(symbol)

    async def _replaced(
        self, read: dict[str, "_Read"], bar: Bar, aside: str, since: int
    ) -> dict[str, int]:
        """Puts what was written in its place; how many bars there are of each symbol whose context
        has all of them."""
        counts: dict[str, int] = {}
        for symbol, one in read.items():
            whole = one.span is not None and one.span.oldest <= one.oldest
            ended = one.span is None or one.span.newest < one.newest
            if one.held is not None and (symbol == bar.symbol or ended):
                prev = None if since else one.prev
                whole = await self._store.replace(symbol, aside, one.held, prev)
                if since:
                    # It may be less than what is known of it.
                    self._whole.pop(symbol, None)
            if whole:
                counts[symbol] = len(one.times)
        return counts

    async def _bars(
        self, bar: Bar, partition: int, start: int, end: int
    ) -> AsyncIterator[list[Placed]]:
        """What the stage does not reject when it comes to it."""
        topic = self._broker.topics.bars
        batch: list[Placed] = []
        async with aclosing(self._broker.read(topic, partition, start, end)) as reading:
            while (records := await _next(reading, f"{topic}/{partition}")) is not None:
                for record in records:
                    try:
                        one = bar_of(record, bar.interval, bar.open_time + DAY_MS)
                    except (msgspec.ValidationError, msgspec.DecodeError):
                        continue
                    batch.append((one, record.offset))
                if len(batch) >= READ_BATCH:
                    yield batch
                    batch = []
        yield batch


async def _next(reading: AsyncIterator[list[Record]], where: str) -> list[Record] | None:
    """None at the end."""
    try:
        async with asyncio.timeout(SILENCE_S):
            return await anext(reading, None)
    except TimeoutError as error:
        told = f"{where}: no record for {SILENCE_S:g} s, though there are some"
        raise BrokerError(told) from error


class _Read:
    """What a reading found of a symbol."""

    def __init__(self, span: Span | None, prev: int | None) -> None:
        """`span`: what is held. `prev`: the open time of the bar before the first one read."""
        self.span = span
        self.prev = prev
        self.held: bytes | None = None
        """As the store's `state` answered; None: it is not written anew."""
        self.oldest = self.newest = 0
        self.times: set[int] = set()

    def add(self, bar: Bar, want: int) -> None:
        if not self.newest:
            self.prev, self.oldest = bar.prev_open_time, bar.open_time
        self.oldest = min(self.oldest, bar.open_time)
        self.newest = max(self.newest, bar.open_time)
        if len(self.times) < want:
            self.times.add(bar.open_time)


def _length(appended: Appended) -> int:
    return 0 if appended.window is None else len(appended.window)
