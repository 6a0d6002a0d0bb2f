"""Ticks to bars, the core: one ticks partition, record by record, without a clock.

Its time is the watermark: the largest marker or trade time in the partition that was not rejected,
whether or not the trade enters a bar. A bar closes when the watermark reaches its close time and
the grace. So bars, and which ticks are late, are a pure function of the partition's records, and a
restart that folds from (low_water, watermark_at_low_water), knowing which bars were published,
gives the same again.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from ..errors import RejectedError
from ..settings import BarsSettings
from ..wire.codecs import Headers
from ..wire.foreign import Trade
from ..wire.intervals import DAY_MS, INTERVAL_MS, end_mark
from ..wire.messages import Bar
from .builder import BarBuilder
from .calendar import ALWAYS, Calendar, calendar_for
from .outputs import BarOut, LateOut, Output, RejectedOut
from .restored import Gap, Restored
from .symbols import SymbolState

_NEVER: Final = 1 << 62
"""After every time in ms."""


class BarsConfig(Struct, frozen=True):
    """The settings that decide what the bars are."""

    bars: BarsSettings
    interval_ms: int

    @classmethod
    def of(cls, bars: BarsSettings) -> "BarsConfig":
        """With the interval in ms beside its name."""
        return cls(bars, INTERVAL_MS[bars.interval])

    def calendar(self, symbol: str) -> Calendar:
        """The symbol's calendar."""
        return calendar_for(self.bars, symbol)


class PartitionFold:
    """One partition's bars. `partition_of` None: any partition is right for any symbol;
    `symbols` None: every symbol is listed."""

    def __init__(
        self,
        *,
        config: BarsConfig,
        partition: int = 0,
        partition_of: Callable[[str], int] | None = None,
        symbols: frozenset[str] | None = None,
        restored: Restored | None = None,
    ) -> None:
        restored = restored or Restored()
        self.config = config
        self._bars = config.bars
        self._interval_ms = config.interval_ms
        self._partition = partition
        self._partition_of = partition_of
        self._listed = symbols
        self._homes: dict[str, int] = {}
        self._decoder = config.bars.tick_decoder()
        self._flat_limit = DAY_MS // config.interval_ms
        self.watermark = restored.watermark
        self.gap = restored.gap
        self.lost = restored.lost
        self.next_open = 0 if self.watermark is None else self._horizon(self.watermark)
        """Open time of the oldest interval that is not closed."""
        self._symbols: dict[str, SymbolState] = {}
        for name, last in restored.last.items():
            if self.lists(name) and self.is_home(name):
                self._symbols[name] = self._known(name, last)
        if restored.relisted and self.watermark is not None:
            # What was listed has bars up to the newest of all: an interval closes for all at once.
            newest = max((bar.open_time for bar in restored.last.values()), default=0)
            begin = max(self.next_open - config.interval_ms, newest)
            self.gap = Gap(begin, self.watermark)
        if self.gap is not None:
            self._begin_anew(self.gap)
        self._next_offset = 0
        self.counters: Counter[str] = Counter()

    # -- what the shell reads ------------------------------------------------------------------

    @property
    def low_water(self) -> int:
        """Offset of the oldest tick that a restart must see again."""
        return self._oldest()[0]

    @property
    def watermark_at_low_water(self) -> int | None:
        """The watermark just before that tick."""
        return self._oldest()[1]

    @property
    def next_close_ms(self) -> int | None:
        """When the oldest bar that is open, or due to be filled, can close: close time + grace."""
        due = [o for s in self._symbols.values() for o in s.open]
        for symbol in self._symbols.values():
            if self._is_filling(symbol):
                after = symbol.prev_open_time
                next_ = (
                    self.next_open
                    if after is None
                    else max(self.next_open, after + self._interval_ms)
                )
                due.append(symbol.existing_before(next_, _NEVER))
        first = min(due, default=_NEVER)
        if self.watermark is None or first == _NEVER:
            return None
        return first + self._interval_ms + self._bars.grace_ms

    def _oldest(self) -> tuple[int, int | None]:
        began = [b for s in self._symbols.values() for b in s.open.values()]
        held = [s.dropped for s in self._symbols.values() if s.dropped is not None]
        began += [b for o, b in held if self.next_open <= o + DAY_MS]
        if not began:
            return self._next_offset, self.watermark
        first = min(began, key=lambda b: b.first_offset)
        return first.first_offset, first.watermark_before

    # -- what the fold in columns shares -------------------------------------------------------

    @property
    def closes_at(self) -> int:
        """The time of a tick or marker that closes the oldest interval."""
        return self.next_open + self._interval_ms + self._bars.grace_ms

    def lists(self, name: str) -> bool:
        """Whether bars of this symbol are made."""
        return self._listed is None or name in self._listed

    def home(self, name: str) -> int:
        """The partition of a symbol: elsewhere its ticks would break the order of its bars."""
        if self._partition_of is None:
            return self._partition
        home = self._homes.get(name)
        if home is None:
            home = self._partition_of(name)
            if len(self._homes) < 100_000:
                self._homes[name] = home
        return home

    def is_home(self, name: str) -> bool:
        """Whether the symbol's ticks belong to this partition."""
        return self.home(name) == self._partition

    def symbol(self, name: str) -> SymbolState:
        """What is known of a listed symbol."""
        known = self._symbols.get(name)
        if known is None:
            known = self._symbols[name] = self._known(name, None)
        return known

    def passed(self, offset: int, time: int) -> None:
        """Records up to `offset` were folded, none of which closes a bar; the largest `time`."""
        assert self.watermark is not None
        assert time < self.closes_at
        self._next_offset = offset + 1
        self.watermark = max(self.watermark, time)

    # -- records in, bars out ------------------------------------------------------------------

    def apply(self, offset: int, timestamp: int, value: bytes, headers: Headers) -> list[Output]:
        """One record; `timestamp` is the record's own, against which the future is measured."""
        self._next_offset = offset + 1
        try:
            message = self._decoder.decode(value, headers)
            time = message if isinstance(message, int) else message.time
            ahead = time - timestamp
            if ahead > self._bars.max_ahead_ms:
                raise RejectedError(
                    "time_ahead",
                    f"time: expected at most {self._bars.max_ahead_ms} ms ahead of the record, "
                    f"got {ahead} ms",
                )
            if isinstance(message, int):
                return self._advance(message)
            if not self.is_home(message.symbol):
                raise RejectedError(
                    "wrong_partition",
                    f"symbol: {message.symbol!r} belongs to partition {self.home(message.symbol)}",
                )
        except RejectedError as error:
            self.counters["rejected"] += 1
            return [RejectedOut(error.reason, error.detail)]
        return self.tick(offset, message)

    def reach(self, time: int) -> list[Output]:
        """Time passes to the open time of the interval of `time`, once there is any: where no
        record says so, as off-line, what a feed marks before a tick of `time`."""
        open_time = time - time % self._interval_ms
        if self.watermark is None or open_time <= self.watermark:
            return []
        return self._advance(open_time)

    def tick(self, offset: int, trade: Trade) -> list[Output]:
        """One checked trade."""
        self._next_offset = offset + 1
        name, time = trade.symbol, trade.time
        if not self.lists(name):
            self.counters["unlisted"] += 1
            return self._advance(time)
        open_time = time - time % self._interval_ms
        if open_time < self.next_open:
            self.counters["late"] += 1
            return [LateOut(name)]
        symbol = self.symbol(name)
        if not symbol.exists(open_time):
            self.counters["outside_session"] += 1
            return self._advance(time)
        builder = symbol.open.get(open_time)
        if builder is None:
            builder = symbol.open[open_time] = BarBuilder(offset, self.watermark)
        elif trade.trade_id is not None and trade.trade_id in builder.ids:
            self.counters["duplicate"] += 1
            # Almost always a time that was counted already. Where a replayed id comes with another
            # time, the watermark must not depend on what a restart no longer remembers.
            return self._advance(time)
        if trade.trade_id is not None:
            reset = symbol.follow_id(trade.trade_id, time, self._interval_ms)
            self.counters["id_reset"] += reset
        builder.add(offset, time, trade.price, trade.qty, trade.trade_id)
        self.counters["accepted"] += 1
        watermark = self.watermark
        if watermark is not None and time <= watermark:
            return []
        return self._advance(time)

    def end(self) -> list[Output]:
        """Where a file ends, off-line as in a replay: whole bars wait no longer for late ticks.
        With edges kept, the bars of the interval that the end cuts off, too."""
        if self.watermark is None:
            return []
        outputs = self._advance(end_mark(self.watermark, self._interval_ms, self._bars.grace_ms))
        if self._bars.edges == "keep":
            self._close(self.next_open, outputs, cut_off=True)
        return outputs

    def _advance(self, time: int) -> list[Output]:
        """The watermark never goes backwards."""
        if self.watermark is None:
            self.watermark = time
            self.next_open = self._horizon(time)
            if self.gap is None:
                # The log itself makes no bar that opens before its horizon.
                newest = max([s.prev_open_time or 0 for s in self._symbols.values()], default=0)
                begin = newest + self._interval_ms if self.lost else 0
                gap = Gap(max(self.next_open, begin), time)
                if self._begin_anew(gap) or self.lost:
                    self.gap, self.lost = gap, False
            return []
        if time <= self.watermark:
            return []
        self.watermark = time
        if time < self.closes_at:
            return []
        outputs: list[Output] = []
        horizon = self._horizon(time)
        while self.next_open < horizon:
            # Nothing happens before the next interval with trades or to be filled, however far
            # it lies: a weekend of a thousand symbols is one step.
            due = [o for s in self._symbols.values() for o in s.open]
            filling = {s.calendar: s for s in self._symbols.values() if self._is_filling(s)}
            due += [s.existing_before(self.next_open, horizon) for s in filling.values()]
            self.next_open = min([*due, horizon])
            if self.next_open < horizon:
                self._close(self.next_open, outputs)
                self.next_open += self._interval_ms
        return outputs

    def _horizon(self, watermark: int) -> int:
        """All intervals that open before this are closed."""
        settled = watermark - self._bars.grace_ms
        return settled - settled % self._interval_ms

    # -- closing -------------------------------------------------------------------------------

    def _close(self, open_time: int, outputs: list[Output], *, cut_off: bool = False) -> None:
        """Closes one interval of all symbols, in the order of their names."""
        for name in sorted(self._symbols):
            symbol = self._symbols[name]
            builder = symbol.open.pop(open_time, None)
            if symbol.prev_open_time is not None and open_time <= symbol.prev_open_time:
                continue
            self._forget(symbol, open_time)
            if builder is not None:
                self._close_traded(symbol, open_time, builder, outputs, cut_off)
            elif self._is_filling(symbol):
                self._close_flat(symbol, open_time, outputs, cut_off)

    def _close_traded(
        self,
        symbol: SymbolState,
        open_time: int,
        builder: BarBuilder,
        outputs: list[Output],
        cut_off: bool,
    ) -> None:
        # A symbol's first bar is whole if the partition had reached its open time before the
        # symbol's first tick (which may belong to the next bar already), and no record between is
        # lost; every later one is.
        first = min([builder, *symbol.open.values()], key=lambda b: b.first_offset)
        reached = first.watermark_before
        seen = self.gap is None or self.gap.end < open_time
        whole = symbol.close is not None or (seen and reached is not None and reached >= open_time)
        hole = self._bars.contiguous_ids and builder.has_hole(symbol.last_id)
        bar = builder.bar(
            symbol.name,
            self._bars.interval,
            open_time,
            open_time + self._interval_ms,
            digits=self._decoder.digits_of(symbol.name),
            prev_open_time=symbol.prev_open_time,
            complete=whole and not hole and not cut_off,
        )
        symbol.close = bar.close
        symbol.flat_run = 0
        if bar.last_trade_id is not None:
            symbol.last_id = bar.last_trade_id
        if whole or self._bars.edges == "keep":
            symbol.prev_open_time = open_time
            symbol.dropped = None
            outputs.append(BarOut(bar))
        else:
            self.counters["dropped_partial"] += 1
            symbol.dropped = (open_time, builder)

    def _close_flat(
        self, symbol: SymbolState, open_time: int, outputs: list[Output], cut_off: bool
    ) -> None:
        if not symbol.exists(open_time):
            return
        assert symbol.close is not None
        symbol.flat_run += 1
        if symbol.flat_run == self._flat_limit:
            self.counters["symbol_silent"] += 1
        price = symbol.close
        outputs.append(
            BarOut(
                Bar(
                    symbol=symbol.name,
                    interval=self._bars.interval,
                    open_time=open_time,
                    close_time=open_time + self._interval_ms,
                    open=price,
                    high=price,
                    low=price,
                    close=price,
                    volume=0.0,
                    amount=0.0,
                    last_trade_id=symbol.last_id,
                    prev_open_time=symbol.prev_open_time,
                    complete=not cut_off,
                    synthetic=True,
                    flat_run=symbol.flat_run,
                )
            )
        )
        symbol.prev_open_time = open_time
        symbol.dropped = None

    # -- rules ---------------------------------------------------------------------------------

    def _known(self, name: str, last: Bar | None) -> SymbolState:
        always = self._bars.calendar_name(name) == ALWAYS
        calendar = None if always else self.config.calendar(name)
        return SymbolState(name, calendar, last)

    def _begin_anew(self, gap: Gap) -> bool:
        """Whether there are symbols whose bars end before the gap: they begin anew."""
        broken = [s for s in self._symbols.values() if s.ends_before(gap, self._interval_ms)]
        for symbol in broken:
            symbol.begin_anew()
        return bool(broken)

    def _is_filling(self, symbol: SymbolState) -> bool:
        return (
            self._bars.gaps == "fill"
            and symbol.close is not None
            and symbol.flat_run < self._flat_limit
        )

    def _forget(self, symbol: SymbolState, open_time: int) -> None:
        """A symbol of which nothing was published for a day after its first, partial bar begins
        anew: a restart does not read further back for it."""
        if symbol.dropped is not None and open_time > symbol.dropped[0] + DAY_MS:
            symbol.begin_anew()
