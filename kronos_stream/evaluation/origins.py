"""Where forecasts are made: one time grid for all symbols, laid without a look at any price.

An origin is the open time of the last bar that a forecast sees. The grid is even over the span
that all symbols have in common. A symbol has no origin at a grid time only where bars are missing:
whatever cleaning suits the training of a model looks at prices, later ones too, and would choose.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bars.calendar import Calendar
from ..errors import InputError
from .series import Series

NO_BAR: Final = "no_bar_at_origin"
CONTEXT_SHORT: Final = "context_incomplete"
CONTEXT_GAP: Final = "gap_in_context"
HORIZON_SHORT: Final = "horizon_incomplete"
HORIZON_GAP: Final = "gap_in_horizon"


class Origin(NamedTuple):
    """One forecast to be made."""

    series: int
    """Number of the symbol."""
    time: int
    """Number of the grid time."""
    row: int
    """Row of the last bar that is seen, in the symbol's series."""


class Grid(NamedTuple):
    """The origins, all symbols of a time together, and what was left out."""

    times: NDArray[np.int64]
    """(T,) open times, ms."""
    stride: float
    """Intervals between two grid times, on average."""
    origins: list[Origin]
    skipped: dict[str, dict[str, int]]
    """Grid times without an origin, by symbol and reason."""


def lay_grid(
    series: Sequence[Series],
    calendar: Calendar,
    *,
    context: int,
    horizon: int,
    count: int,
    since: int | None = None,
    until: int | None = None,
) -> Grid:
    """`count` origins a symbol, fewer where the span has fewer intervals.

    `context` bars end at each origin, `horizon` bars follow it. `since` bounds origins from below
    (contexts may begin before it), `until` (ms, included) the bars that follow; both ms.
    """
    times = _grid_times(series, calendar, context, horizon, count, since=since, until=until)
    skipped: dict[str, Counter[str]] = {one.symbol: Counter() for one in series}
    origins: list[Origin] = []
    for time, open_time in enumerate(times.tolist()):
        for number, one in enumerate(series):
            row = int(np.searchsorted(one.open_times, open_time))
            reason = _missing(one, row, open_time, context, horizon)
            if reason is None:
                origins.append(Origin(number, time, row))
            else:
                skipped[one.symbol][reason] += 1
    if not origins:
        reasons = sum(skipped.values(), Counter())
        told = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
        raise InputError(
            f"bars: expected {context} bars without a gap and {horizon} after them at some origin, "
            f"found none ({told})"
        )
    places = calendar.places(times)
    stride = float(np.diff(places).mean()) if len(times) > 1 else float(horizon)
    return Grid(times, stride, origins, {name: dict(c) for name, c in skipped.items()})


def _grid_times(
    series: Sequence[Series],
    calendar: Calendar,
    context: int,
    horizon: int,
    count: int,
    *,
    since: int | None,
    until: int | None,
) -> NDArray[np.int64]:
    begin = max(int(one.open_times[0]) for one in series)
    end = min(int(one.open_times[-1]) for one in series)
    if until is not None:
        end = min(end, until)
    span: list[int] = []
    open_time = begin
    while open_time <= end:
        span.append(open_time)
        open_time = calendar.next_open(open_time)
    candidates = np.array(span[context - 1 : len(span) - horizon], np.int64)
    if since is not None:
        candidates = candidates[candidates >= since]
    if not len(candidates):
        raise InputError(
            f"bars: expected a span common to all symbols of {context} + {horizon} intervals or "
            f"more (within --since and --until), found {len(span)} intervals from {_time(begin)} "
            f"to {_time(end)}"
        )
    chosen = np.linspace(0, len(candidates) - 1, min(count, len(candidates)))
    return candidates[chosen.round().astype(np.int64)]


def _missing(series: Series, row: int, open_time: int, context: int, horizon: int) -> str | None:
    """Why a symbol has no origin there."""
    places, last = series.places, len(series.places) - 1
    if row > last or series.open_times[row] != open_time:
        return NO_BAR
    if row < context - 1:
        return CONTEXT_SHORT
    if places[row] - places[row - context + 1] != context - 1:
        return CONTEXT_GAP
    if row + horizon > last:
        return HORIZON_SHORT
    return HORIZON_GAP if places[row + horizon] - places[row] != horizon else None


def _time(ms: int) -> str:
    return f"{np.datetime64(ms, 'ms').astype('datetime64[m]')}"
