"""What the fold knows of one symbol."""

import numpy as np
from numpy.typing import NDArray

from ..errors import CalendarEndError
from ..wire.messages import Bar
from .builder import BarBuilder
from .calendar import Calendar
from .restored import Gap


class SymbolState:
    """Its open bars, the bar that the next one follows, and the exchange's ids so far."""

    __slots__ = (
        "calendar",
        "close",
        "dropped",
        "flat_run",
        "highest_id",
        "highest_time",
        "last_id",
        "name",
        "open",
        "prev_open_time",
    )

    def __init__(self, name: str, calendar: Calendar | None, last: Bar | None) -> None:
        self.name = name
        self.calendar = calendar
        """None: every interval exists."""
        self.open: dict[int, BarBuilder] = {}
        self.prev_open_time = last.open_time if last else None
        self.close: float | None = last.close if last else None
        self.last_id = last.last_trade_id if last else None
        self.flat_run = last.flat_run if last else 0
        self.highest_id = -1
        self.highest_time = 0
        self.dropped: tuple[int, BarBuilder] | None = None
        """The partial first bar: until a bar is published, a restart must see its ticks again."""

    def ends_before(self, gap: Gap, interval_ms: int) -> bool:
        """Whether an interval of its own lies in the gap and not behind its newest bar."""
        if self.prev_open_time is None or self.prev_open_time >= gap.begin:
            return False
        return self.existing_before(self.prev_open_time + interval_ms, gap.end) < gap.end

    def begin_anew(self) -> None:
        """Its next bar is like a first one, but for the bar that it follows."""
        self.dropped = self.close = self.last_id = None
        self.flat_run = 0

    def exists(self, open_time: int) -> bool:
        """Whether the interval is one of the symbol's calendar."""
        return self.calendar is None or self.calendar.is_open(open_time)

    def existing(self, open_time: int) -> int:
        """The first interval of the symbol's calendar from this one on."""
        if self.calendar is None or self.calendar.is_open(open_time):
            return open_time
        return self.calendar.next_open(open_time)

    def existing_before(self, open_time: int, end: int) -> int:
        """The same, `end` where the calendar is not known so far."""
        try:
            return self.existing(open_time)
        except CalendarEndError:
            return end

    def follow_id(self, trade_id: int, time: int, interval_ms: int) -> bool:
        """Whether the exchange began to count anew: a lower id more than an interval later. Which
        ids were seen is remembered by each open bar: a replayed tick belongs to the same bar
        again, or is late."""
        higher = trade_id > self.highest_id
        reset = not higher and time > self.highest_time + interval_ms
        if higher or reset:
            self.highest_id, self.highest_time = trade_id, time
        return reset

    def follow_ids(self, ids: NDArray[np.int64], times: NDArray[np.int64], interval_ms: int) -> int:
        """The same of many trades in the order of the log: how many resets."""
        if times.max() > min(self.highest_time, times.min()) + interval_ms:
            each = zip(ids.tolist(), times.tolist(), strict=True)
            return sum(self.follow_id(trade_id, time, interval_ms) for trade_id, time in each)
        highest = int(ids.argmax())
        self.follow_id(int(ids[highest]), int(times[highest]), interval_ms)
        return 0
