"""Which intervals exist, and the clock by which a market reads its time of day.

24/7 in UTC is our own; sessions come from exchange_calendars, imported only where one is named.
"""

from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import CalendarEndError, SettingsError
from ..settings import BarsSettings
from ..wire.intervals import DAY_MS, INTERVAL_MS, open_time_of

ALWAYS: Final = "24/7"
_FIRST_SESSION: Final = "1990-01-01"


class Calendar(Protocol):
    """The intervals of one market. Times are ms, UTC."""

    def is_open(self, open_time: int) -> bool:
        """Whether the interval that begins at `open_time` exists."""

    def next_open(self, open_time: int) -> int:
        """The open time of the first interval after `open_time`; CalendarEndError past the last
        one that is known."""

    def count_between(self, first: int, last: int) -> int:
        """Intervals with `first` ≤ open time < `last`."""

    def places(self, open_times: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ordinal of each interval (n,): neighbours differ by 1. -1 where there is none."""

    def stamps(self, open_times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Minute, hour, weekday (Monday 0), day, month in the market's zone: (n, 5)."""


class AlwaysOpen:
    """Every interval exists; the zone is UTC."""

    def __init__(self, interval_ms: int) -> None:
        self._interval_ms = interval_ms

    def is_open(self, open_time: int) -> bool:
        return True

    def next_open(self, open_time: int) -> int:
        return open_time_of(open_time, self._interval_ms) + self._interval_ms

    def count_between(self, first: int, last: int) -> int:
        return max(0, (last - first) // self._interval_ms)

    def places(self, open_times: NDArray[np.int64]) -> NDArray[np.int64]:
        return open_times // self._interval_ms

    def stamps(self, open_times: NDArray[np.int64]) -> NDArray[np.int64]:
        return _stamps(open_times)


class Sessions:
    """The trading sessions of an exchange, lunch breaks left out. An interval exists if some of it
    lies within a session: one that the session does not fill is still that session's. A print at
    the very close or after it (an auction's) belongs to no interval."""

    def __init__(self, name: str, interval_ms: int) -> None:
        try:
            import exchange_calendars
        except ImportError:
            raise SettingsError(
                f"bars.calendar: {name!r} needs the package exchange-calendars "
                "(pip install 'kronos-stream[calendars]')"
            ) from None
        import pandas as pd

        try:
            # Without an end it is a year from now, or where the calendar's knowledge ends.
            calendar: Any = exchange_calendars.get_calendar(
                name, start=_first_session(exchange_calendars, name)
            )
        except exchange_calendars.errors.InvalidCalendarName:
            known = ", ".join(exchange_calendars.get_calendar_names(include_aliases=False)[:6])
            raise SettingsError(
                f"bars.calendar: expected 24/7 or a name of exchange_calendars ({known}, ...), "
                f"got {name!r}"
            ) from None
        except (NotImplementedError, ValueError) as error:
            raise SettingsError(
                f"bars.calendar: exchange_calendars has no sessions of {name!r}: {error!r}"[:300]
            ) from error
        schedule = calendar.schedule
        opens: list[NDArray[np.int64]] = []
        for row in schedule[["open", "break_start", "break_end", "close"]].itertuples(index=False):
            parts = [(row[0], row[3])]
            if row[1] is not pd.NaT and not pd.isna(row[1]):
                parts = [(row[0], row[1]), (row[2], row[3])]
            for begin, end in parts:
                first = begin.value // 1_000_000
                opens.append(
                    np.arange(open_time_of(first, interval_ms), end.value // 1_000_000, interval_ms)
                )
        # In order already, and where two parts share an interval, twice. numpy's unique hashes, and
        # takes seconds for a million of these.
        every = np.concatenate(opens)
        self._opens: list[int] = every[np.diff(every, prepend=-1) > 0].tolist()
        self._name = name
        self._zone = str(calendar.tz)

    def is_open(self, open_time: int) -> bool:
        place = bisect_left(self._opens, open_time)
        return place < len(self._opens) and self._opens[place] == open_time

    def next_open(self, open_time: int) -> int:
        place = bisect_right(self._opens, open_time)
        if place == len(self._opens):
            raise CalendarEndError(
                f"bars.calendar: {self._name} is known until {_date(self._opens[-1])}, asked for "
                f"what follows {_date(open_time)}"
            )
        return self._opens[place]

    def count_between(self, first: int, last: int) -> int:
        return max(0, bisect_left(self._opens, last) - bisect_left(self._opens, first))

    def places(self, open_times: NDArray[np.int64]) -> NDArray[np.int64]:
        opens = np.asarray(self._opens, np.int64)
        at = np.searchsorted(opens, open_times)
        exists = opens[np.minimum(at, len(opens) - 1)] == open_times
        return np.where(exists, at, -1)

    def stamps(self, open_times: NDArray[np.int64]) -> NDArray[np.int64]:
        import pandas as pd

        local = pd.DatetimeIndex(pd.to_datetime(open_times, unit="ms", utc=True))
        wall = local.tz_convert(self._zone).tz_localize(None).as_unit("ms")
        return _stamps(np.asarray(wall.astype("int64"), np.int64))


@lru_cache(maxsize=64)
def calendar_of(name: str, interval_ms: int) -> Calendar:
    """The calendar called `name`; SettingsError where there is none."""
    return AlwaysOpen(interval_ms) if name == ALWAYS else Sessions(name, interval_ms)


def calendar_for(bars: BarsSettings, symbol: str) -> Calendar:
    """A symbol's calendar; SettingsError names the setting that it comes from."""
    try:
        return calendar_of(bars.calendar_name(symbol), INTERVAL_MS[bars.interval])
    except SettingsError as error:
        if symbol not in bars.symbol_calendars:
            raise
        own = f"bars.symbol_calendars: {symbol}"
        raise SettingsError(str(error).replace("bars.calendar", own, 1)) from error


def _stamps(wall_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of wall-clock milliseconds since 1970, a Thursday."""
    days = wall_ms // DAY_MS
    minutes = wall_ms % DAY_MS // 60_000
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    return np.stack(
        (
            minutes % 60,
            minutes // 60,
            (days + 3) % 7,
            (dates - months).astype(np.int64) + 1,
            months.astype(np.int64) % 12 + 1,
        ),
        axis=-1,
    )


def _first_session(package: Any, name: str) -> str | None:
    """Some calendars begin later than ours would."""
    bound = package.get_calendar(name).bound_min()
    return (
        _FIRST_SESSION if bound is None or str(bound.date()) < _FIRST_SESSION else str(bound.date())
    )


def _date(ms: int) -> str:
    return str(np.datetime64(ms, "ms").astype("datetime64[D]"))
