"""The feed stage, the shell: history first, then ticks and markers in virtual time.

Virtual time runs `speed` times as fast as the wall clock and stands still while a later stage is
behind. A marker is written to every partition after the first tick, at each open time and close
time + grace, and, at a finite speed, after 250 ms of wall time in which nothing was due; no tick of
an earlier virtual time is written after it, unless on request. So which bars are whole does not
hang on speed or partitions.
"""

import asyncio
import functools
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Final, NamedTuple

import msgspec
import structlog

from .. import telemetry
from ..clock import wall_ms
from ..errors import BrokerError, SettingsError
from ..kafka import Broker, Publisher
from ..settings import Settings
from ..wire.bars import decode_bar
from ..wire.codecs import encode
from ..wire.intervals import INTERVAL_MS, end_mark, open_time_of
from ..wire.messages import Bar, Marker, Tick
from ..wire.partitioning import partition_of
from .history import Reader, as_history, history_files
from .pacing import Backpressure
from .replay import ReplayFeed
from .simulated import YEAR_MS, Arrival, SimulatedFeed
from .topic_end import topic_end

log = structlog.get_logger()

MARKER_EVERY_S: Final = 0.25
EARLY_S: Final = 0.02
"""How much before its time a tick may be written: so ticks go in small bursts, and the stages
wake for many at once and not for each."""
BARS_AHEAD: Final = 2
"""Bars of each symbol whose forecasts may be under way: one is made while the next one closes. With
more, an engine that is slower than the feed would only be further behind it."""
YIELD_EVERY: Final = 200
"""Ticks written before other tasks get their turn."""


class _Held(NamedTuple):
    """What the bars topic holds of one symbol, open times in ms; None: nothing of the kind."""

    first_live: int | None = None
    last_history: int | None = None


class FeedService:
    """Writes the ticks topic. `kind` kafka writes history alone: its ticks are others'."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        *,
        kind: str,
        read_history: Reader,
        history_bars: int,
        exists: Callable[[str, int], bool] = lambda symbol, open_time: True,
        bars_limit: int | None = None,
        backpressure: Backpressure | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = wall_ms,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`history_bars` is how many bars of history a cold symbol gets, `exists` says whether an
        interval is one of a symbol's calendar; `bars_limit` ends the feed after so many closes of
        intervals that some listed symbol has."""
        self._settings = settings
        self._broker = broker
        self._kind = kind
        self._read_history = read_history
        self._history_bars = history_bars
        self._exists = exists
        self._bars_limit = bars_limit
        self._backpressure = backpressure
        self._monotonic = monotonic
        self._wall = wall
        self._sleep = sleep
        self._speed = settings.feed.speed
        self._interval_ms = INTERVAL_MS[settings.bars.interval]
        self._symbols = () if settings.symbols == "all" else tuple(settings.symbols)
        self._homes: dict[str, int] = {}
        self._partitions = 0
        self._written = 0
        self._closed = 0
        self._zero: tuple[float, int] | None = None
        """Wall and virtual time at which pacing began."""

    async def run(self) -> None:
        """Until the feed ends (replay, `bars_limit`, history alone) or is cancelled."""
        self._partitions = await self._broker.partitions(self._broker.topics.ticks)
        self._publisher: Publisher = self._broker.publisher()
        await self._publisher.start()
        try:
            if self._kind == "simulated":
                await self._simulate()
            elif self._kind == "replay":
                await self._replay()
            else:
                await self._history_of(self._symbols, before=None, simulated=None)
            await self._publisher.flush()
        finally:
            await self._publisher.close()

    # -- the feeds -----------------------------------------------------------------------------

    async def _simulate(self) -> None:
        feed = self._settings.feed
        homes: dict[int, list[str]] = {}
        for symbol in self._symbols:
            homes.setdefault(self._home(symbol), []).append(symbol)
        end = await topic_end(self._broker, self._settings.bars.tick_decoder(), dict(homes))
        start = feed.start_ms - feed.start_ms % self._interval_ms
        if end.watermark is not None:
            start = max(start, end.watermark - end.watermark % 60_000 + 60_000)
            log.info("feed_continues", start_ms=start, symbols=len(end.symbols))
        start = self._opening(start)
        simulated = SimulatedFeed(
            self._symbols,
            feed,
            interval=self._settings.bars.interval,
            grace_ms=self._settings.bars.grace_ms,
            start_ms=start,
            resume=end.symbols,
        )
        await self._history_of(self._symbols, before=start, simulated=simulated)
        if end.watermark is None:
            # The partition's time has reached the first interval: its bars are whole.
            await self._mark(start)
        await self._play(start, (a for _, minute in simulated.minutes() for a in minute))

    def _is_open(self, open_time: int) -> bool:
        """Whether the interval is one of some listed symbol's calendar."""
        symbols = self._symbols or ("", *self._settings.bars.symbol_calendars)
        return any(self._exists(symbol, open_time) for symbol in symbols)

    def _opening(self, start: int) -> int:
        """`start` itself (ms), or where every market is closed then, when the first one opens.
        SettingsError where none does within a year."""
        first = open_time_of(start, self._interval_ms)
        times = range(first, first + YEAR_MS, self._interval_ms)
        for open_time in filter(self._is_open, times):
            return max(start, open_time)
        raise SettingsError(
            "feed.start_ms: expected a time after which a market opens within a year "
            f"(bars.calendar, bars.symbol_calendars), got {start}"
        )

    async def _replay(self) -> None:
        path = self._settings.feed.file
        if path is None:
            raise SettingsError("feed.file: expected a ticks file for the replay feed, got none")
        replay = ReplayFeed(path, frozenset(self._symbols) or None)
        end = await topic_end(self._broker, self._settings.bars.tick_decoder(), {})
        if end.watermark is not None and end.watermark > replay.first_ms:
            raise BrokerError(
                f"{self._broker.topics.ticks}: time there has reached {end.watermark} ms, past the "
                f"file's first tick at {replay.first_ms} ms, so all of it would be late; use "
                "another --topic-prefix, or delete the topics of this one"
            )
        await self._history_of(self._symbols, before=replay.first_ms, simulated=None)
        if replay.preceded:
            await self._mark(replay.first_ms)
        last = await self._play(replay.first_ms, replay.arrivals())
        if last is None:
            return
        whole = end_mark(last, self._interval_ms, self._settings.bars.grace_ms)
        # The bars that the file's end cuts off: as off-line.
        await self._mark(whole + self._interval_ms * (self._settings.bars.edges == "keep"))

    # -- history -------------------------------------------------------------------------------

    async def _history_of(
        self, symbols: tuple[str, ...], *, before: int | None, simulated: SimulatedFeed | None
    ) -> None:
        """Bars of the cold symbols, those without history in the bars topic: up to the first bar
        that is there. History after which no bar was made yet is completed: a feed may have been
        killed while it wrote it. The simulated market's ends where its ticks begin, so it makes
        none once there is any bar."""
        file = self._settings.feed.history
        files = history_files(file, symbols) if file else {}
        for symbol in symbols if file else ():
            if symbol not in files:
                log.warning("history_not_found", symbol=symbol, folder=file)
        if not files and simulated is None:
            return
        held = await self._held(symbols, until_history=files)
        for symbol in symbols:
            there = held.get(symbol, _Held())
            if symbol not in files and there != _Held():
                continue
            if there.first_live is not None and there.last_history is not None:
                continue
            made: list[Bar] = []
            if symbol in files:
                made = self._read_history(files[symbol], symbol)
            elif simulated is not None:
                made = simulated.history(
                    symbol, self._history_bars, functools.partial(self._exists, symbol)
                )
            ends = [end for end in (before, there.first_live) if end is not None]
            if there.first_live is not None:
                live = there.first_live
                telemetry.HISTORY_CLASHES.inc(sum(bar.open_time >= live for bar in made))
            bars = as_history(made, before=min(ends, default=None), count=self._history_bars)
            if (last := there.last_history) is not None:
                bars = [bar for bar in bars if bar.open_time > last]
            await self._publish_history(bars)
        await self._publisher.flush()

    async def _publish_history(self, bars: list[Bar]) -> None:
        for i, bar in enumerate(bars):
            value, headers = encode(bar, self._settings.publish.wire)
            if self._backpressure is not None:
                self._backpressure.produced("bars", 1)
            await self._publisher.send(
                self._broker.topics.bars,
                value,
                partition=self._home(bar.symbol),
                key=bar.symbol.encode(),
                timestamp=bar.open_time,
                headers=headers,
            )
            telemetry.BARS.labels("history").inc()
            if i % YIELD_EVERY == 0:
                await self._room()
        if bars:
            log.info("history_published", symbol=bars[0].symbol, bars=len(bars))

    async def _held(
        self, symbols: tuple[str, ...], *, until_history: Collection[str]
    ) -> dict[str, _Held]:
        """What the bars topic holds of each symbol, read until every symbol has been seen, those
        of `until_history` with history and a bar made from ticks."""
        topic = self._broker.topics.bars
        homes = {self._home(symbol) for symbol in symbols}
        begins = await self._broker.begin_offsets(topic, homes)
        ends = await self._broker.end_offsets(topic, homes)
        held: dict[str, _Held] = {}
        for partition in sorted(homes):
            due = {s for s in symbols if self._home(s) == partition}
            async for records in self._broker.read(
                topic, partition, begins[partition], ends[partition]
            ):
                for record in records:
                    try:
                        bar = decode_bar(record.value, record.headers)
                    except (msgspec.ValidationError, msgspec.DecodeError):
                        continue
                    seen = held.get(bar.symbol, _Held())
                    if bar.history:
                        last = max(bar.open_time, seen.last_history or 0)
                        held[bar.symbol] = seen._replace(last_history=last)
                    else:
                        first = min(bar.open_time, seen.first_live or bar.open_time)
                        held[bar.symbol] = seen._replace(first_live=first)
                due -= {s for s, h in held.items() if s not in until_history or None not in h}
                if not due:
                    break
        return held

    # -- ticks and markers ---------------------------------------------------------------------

    async def _play(self, start: int, arrivals: Iterator[Arrival]) -> int | None:
        """Writes arrivals and markers in virtual time; answers the time of the last arrival, or
        None where `bars_limit` came before it."""
        opens = open_time_of(start, self._interval_ms) + self._interval_ms
        grace_ms = self._settings.bars.grace_ms
        closes = opens + grace_ms
        last: int | None = None
        self._zero = (self._monotonic(), start)
        if self._backpressure is not None and self._symbols:
            self._backpressure.limit("bars", BARS_AHEAD * len(self._symbols))
        for arrival in arrivals:
            while (due := min(opens, closes)) <= arrival.at:
                await self._until(due)
                await self._mark(due)
                if due == opens:
                    opens += self._interval_ms
                if due == closes:
                    closes += self._interval_ms
                    self._closed += self._is_open(due - grace_ms - self._interval_ms)
                    if self._bars_limit is not None and self._closed >= self._bars_limit:
                        return None
            await self._until(arrival.at)
            if arrival.tick is not None:
                await self._write(arrival.at, arrival.tick)
            if last is None:
                await self._mark(arrival.at)
            last = arrival.at
        return last

    async def _until(self, at: int) -> None:
        """Waits for virtual time `at`, marking the time that passes, and for the later stages."""
        self._written += 1
        if self._kind == "simulated":
            await self._come(at)
        if not math.isinf(self._speed):
            await self._pass(at)
        if self._written % YIELD_EVERY == 0:
            await self._sleep(0)
            await self._room()

    async def _pass(self, at: int) -> None:
        """At a finite speed, until virtual time `at`."""
        while (behind_s := (at - self._virtual_ms()) / 1000 / self._speed) > EARLY_S:
            await self._sleep(min(behind_s, MARKER_EVERY_S))
            await self._room()
            if behind_s > MARKER_EVERY_S:
                await self._mark(min(self._virtual_ms(), at - 1))

    async def _come(self, at: int) -> None:
        """A market that was simulated up to the present goes on at its pace: what lies ahead of its
        record would be rejected."""
        while (ahead_ms := at - self._wall()) > 0:
            await self._sleep(min(ahead_ms / 1000, MARKER_EVERY_S))

    def _virtual_ms(self) -> int:
        assert self._zero is not None
        wall, virtual = self._zero
        return virtual + int((self._monotonic() - wall) * 1000 * self._speed)

    async def _room(self) -> None:
        """Virtual time stands still while a later stage is behind."""
        if self._backpressure is None:
            return
        began = self._monotonic()
        await self._backpressure.wait_room()
        if self._zero is not None:
            wall, virtual = self._zero
            self._zero = (wall + self._monotonic() - began, virtual)

    async def _write(self, at: int, tick: Tick) -> None:
        value, headers = encode(tick, self._settings.publish.wire)
        self._count(value)
        await self._publisher.send(
            self._broker.topics.ticks,
            value,
            partition=self._home(tick.symbol),
            key=tick.symbol.encode(),
            timestamp=max(at, tick.time),
            headers=headers,
        )

    async def _mark(self, at: int) -> None:
        value, headers = encode(Marker(marker_time=at), self._settings.publish.wire)
        for partition in range(self._partitions):
            self._count(value)
            await self._publisher.send(
                self._broker.topics.ticks, value, partition=partition, timestamp=at, headers=headers
            )

    def _count(self, value: bytes) -> None:
        if self._backpressure is not None:
            self._backpressure.produced("ticks", len(value))

    def _home(self, symbol: str) -> int:
        home = self._homes.get(symbol)
        if home is None:
            partitioner = self._settings.kafka.partitioner
            home = self._homes[symbol] = partition_of(symbol, self._partitions, partitioner)
        return home
