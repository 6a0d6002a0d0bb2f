"""Where forecasts are made: one time grid for all symbols, laid without a look at any price.

An origin is the open time of the last bar that a forecast sees. The grid is even over the whole
span, from the earliest first bar of a symbol to the latest last one. A symbol has no origin at a
grid time only where bars are missing: whatever cleaning suits the training of a model looks at
prices, later ones too, and would choose.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bars.calendar import Calendar
from ..errors import InputError
from .series import Series

REASONS: Final = (
    "usable",
    "no_bar_at_origin",
    "context_incomplete",
    "gap_in_context",
    "horizon_incomplete",
    "gap_in_horizon",
)
"""Why a symbol has no origin at a time, by code; 0 where it has one."""


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
    usable: dict[str, int]
    """Intervals of the span that could be an origin, by symbol."""


def lay_grid(
    series: Sequence[Series],
    calendar: Calendar,
    *,
    context: int,
    horizon: int,
    count: int,
    least: int = 0,
    since: int | None = None,
    until: int | None = None,
) -> Grid:
    """`count` times, fewer where the span has fewer intervals, and more where a symbol that could
    have `least` origins would have fewer of them. Every interval where no symbol could.

    `context` bars end at each origin, `horizon` bars follow it. `since` bounds origins from below
    (contexts may begin before it), `until` (ms, included) the bars that follow; both ms.
    """
    every, codes = _possible(series, calendar, context, horizon, since=since, until=until)
    chosen = _chosen(codes == 0, count, least)
    times, codes_there = every[chosen], codes[:, chosen]
    skipped = {
        one.symbol: _counts(of_symbol) for one, of_symbol in zip(series, codes_there, strict=True)
    }
    rows = [np.searchsorted(one.open_times, times) for one in series]
    origins = [
        Origin(number, time, int(rows[number][time]))
        for time, number in np.argwhere(codes_there.T == 0).tolist()
    ]
    if not origins:
        raise _none(series[0].interval, codes_there, context, horizon)
    places = calendar.places(times)
    stride = float(np.diff(places).mean()) if len(times) > 1 else float(horizon)
    usable = {one.symbol: int((its == 0).sum()) for one, its in zip(series, codes, strict=True)}
    return Grid(times, stride, origins, skipped, usable)


def spread(
    series: Sequence[Series],
    calendar: Calendar,
    *,
    context: int,
    horizon: int,
    count: int,
    fits: Callable[[int, int], bool] = lambda number, row: True,
    since: int | None = None,
    until: int | None = None,
) -> list[Origin]:
    """At most `count` of all intervals that could be an origin, by time: as many of each symbol,
    evenly over the time of each; what one symbol lacks is the others'. Rows of a series (by
    number) that do not fit are passed over; none may be left. The rest as `lay_grid`."""
    every, codes = _possible(series, calendar, context, horizon, since=since, until=until)
    usable = [np.flatnonzero(of_symbol == 0) for of_symbol in codes]
    if not any(map(len, usable)):
        raise _none(series[0].interval, codes, context, horizon)
    rows = [np.searchsorted(one.open_times, every) for one in series]
    while True:
        chosen: list[Origin] = []
        exhausted = False
        # Those that have least come first, and leave what they lack.
        for place, number in enumerate(sorted(range(len(series)), key=lambda n: len(usable[n]))):
            share = -(-(count - len(chosen)) // (len(series) - place))
            fitting = _fitting(usable[number], share, rows[number], partial(fits, number))
            if len(fitting) < min(share, len(usable[number])):
                usable[number], exhausted = fitting, True
            chosen += [Origin(number, t, int(rows[number][t])) for t in fitting.tolist()]
        if not exhausted:
            return sorted(chosen, key=lambda origin: (origin.time, origin.series))


def _fitting(
    times: NDArray[np.int64], share: int, rows: NDArray[np.int64], fits: Callable[[int], bool]
) -> NDArray[np.int64]:
    """`share` of the times evenly, of those whose row fits; fewer where no more do."""
    wanted = share
    while True:
        looked = _evenly(times, min(wanted, len(times)))
        fitting = looked[[fits(row) for row in rows[looked].tolist()]]
        if len(fitting) >= share or len(looked) == len(times):
            return _evenly(fitting, min(share, len(fitting)))
        wanted *= 2


def _evenly(times: NDArray[np.int64], share: int) -> NDArray[np.int64]:
    """The middle of each of `share` equal parts."""
    return times[(np.arange(share) * 2 + 1) * len(times) // (2 * max(share, 1))]


def _none(interval: str, codes: NDArray[np.int8], context: int, horizon: int) -> InputError:
    told = ", ".join(f"{n} {reason}" for reason, n in sorted(_counts(codes).items()))
    return InputError(
        f"bars: expected {context} bars of {interval} without a gap and {horizon} after them at "
        f"some origin, found none ({told}); --calendar says what a gap is, --lookback how many bars"
    )


def _possible(
    series: Sequence[Series],
    calendar: Calendar,
    context: int,
    horizon: int,
    *,
    since: int | None,
    until: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Every candidate (n,), and the codes of each symbol there (S, n)."""
    every = _candidates(series, calendar, context, horizon, since=since, until=until)
    return every, np.stack([_codes(one, every, context, horizon) for one in series])


def _candidates(
    series: Sequence[Series],
    calendar: Calendar,
    context: int,
    horizon: int,
    *,
    since: int | None,
    until: int | None,
) -> NDArray[np.int64]:
    """Every interval of the span that leaves room for a context and a horizon."""
    begin = min(int(one.open_times[0]) for one in series)
    end = max(int(one.open_times[-1]) for one in series)
    if until is not None:
        end = min(end, until)
    span: list[int] = []
    open_time = begin
    while open_time <= end:
        span.append(open_time)
        open_time = calendar.next_open(open_time)
    candidates = np.array(span[context - 1 : max(0, len(span) - horizon)], np.int64)
    if since is not None and len(candidates):
        candidates = candidates[candidates >= since]
        if not len(candidates):
            last = span[len(span) - horizon - 1]
            raise InputError(
                f"--since: expected {minute(last)} or earlier, so that {horizon} bars follow, got "
                f"{minute(since)}"
            )
    if not len(candidates):
        raise InputError(
            f"bars: expected a span of {context} + {horizon} intervals or more (within --since "
            f"and --until), found {len(span)} intervals from {minute(begin)} to {minute(end)}"
        )
    return candidates


def _chosen(usable: NDArray[np.bool_], count: int, least: int) -> NDArray[np.int64]:
    """Places of an even grid among n candidates; `usable` (S, n) says which each symbol has."""
    n = usable.shape[1]
    wanting = usable[usable.sum(1) >= least]
    if not len(wanting):
        return np.arange(n)
    while True:
        chosen = np.linspace(0, n - 1, min(count, n)).round().astype(np.int64)
        fewest = int(wanting[:, chosen].sum(1).min())
        if fewest >= least or count >= n:
            return chosen
        # In proportion, but few hits say little about the share of times that hit.
        count = min(2 * count, max(count + 1, -(-count * least // max(fewest, 1))))


def _codes(
    series: Series, times: NDArray[np.int64], context: int, horizon: int
) -> NDArray[np.int8]:
    """Whether a symbol has an origin at each time (n,), or why not: places in REASONS."""
    places, last = series.places, len(series.places) - 1
    row = np.searchsorted(series.open_times, times)
    at = np.minimum(row, last)
    before, after = np.maximum(at - context + 1, 0), np.minimum(at + horizon, last)
    missing = (
        series.open_times[at] != times,
        row < context - 1,
        places[at] - places[before] != context - 1,
        row + horizon > last,
        places[after] - places[at] != horizon,
    )
    return np.select(missing, np.arange(1, len(REASONS)), 0).astype(np.int8)


def _counts(codes: NDArray[np.int8]) -> dict[str, int]:
    """How often each reason stands there."""
    counts = np.bincount(codes.ravel(), minlength=len(REASONS)).tolist()
    return {reason: n for reason, n in zip(REASONS[1:], counts[1:], strict=True) if n}


def minute(ms: int) -> str:
    """UTC."""
    return f"{np.datetime64(ms, 'ms').astype('datetime64[m]')}"
