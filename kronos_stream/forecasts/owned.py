"""How far an owned partition of the bars topic is read, and how far it is finished."""

from collections import OrderedDict

import structlog

from ..kafka import Commit
from ..wire.intervals import DAY_MS

log = structlog.get_logger()


class Owned:
    """One owned bars partition: the next offset to read, and the records not yet finished."""

    def __init__(self, next_offset: int, reach_ms: int) -> None:
        """`reach_ms` is how much event time the store keeps beyond a window."""
        self.next_offset = next_offset
        self.reach_ms = reach_ms
        self.unfinished: OrderedDict[int, int] = OrderedDict()
        """Open time of their bars by offset."""
        self.newest = 0
        """Open time of the newest live bar read."""
        self.committed: int | None = None

    def until(self, now_ms: int) -> int | None:
        """The last open time that can be true: a bar of the far future would silence its symbol up
        to then. None before the first bar, which may be of any time (a replay)."""
        return max(now_ms, self.newest) + DAY_MS if self.newest else None

    def position(self) -> int:
        """The lowest unfinished offset."""
        return next(iter(self.unfinished), self.next_offset)

    def behind_ms(self) -> int:
        """Event time between the newest bar read and the oldest whose forecast is not out."""
        return self.newest - next(iter(self.unfinished.values()), self.newest)

    @property
    def full(self) -> bool:
        """Another bar may push the window of the oldest unfinished one out of the store."""
        return self.behind_ms() >= self.reach_ms


def start_of(number: int, commit: Commit | None, begin: int, end: int) -> int:
    """Where a group reads a bars partition from: its commit, or the beginning of a topic made anew;
    a new group begins with the newest bars."""
    if commit is None:
        return end
    if commit.offset > end:
        log.warning("bars_topic_recreated", partition=number, committed=commit.offset)
        return begin
    return max(commit.offset, begin)
