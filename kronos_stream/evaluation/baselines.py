"""Forecasts that cost nothing, at the very origins of the model's: what it must beat.

Each sees closes up to its origin and none after it.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..bars.calendar import Calendar
from .origins import Origin
from .predictions import Array, Predictions, of_normal
from .series import Series

EWMA_DECAY: Final = 0.97
SEASONAL_DAYS: Final = 20
LEAST_DAYS: Final = 2


def context_returns(series: Sequence[Series], origins: Sequence[Origin], context: int) -> Array:
    """One-bar log returns of the `context` closes that end at each origin: (R, context − 1)."""
    logs = [one.log_closes() for one in series]
    rows = np.stack([logs[o.series][o.row + 1 - context : o.row + 1] for o in origins])
    return np.diff(rows, axis=1)


def realised_returns(series: Sequence[Series], origins: Sequence[Origin], horizon: int) -> Array:
    """Log returns from the last close to each close that follows: (R, H)."""
    logs = [one.log_closes() for one in series]
    return np.stack(
        [logs[o.series][o.row + 1 : o.row + 1 + horizon] - logs[o.series][o.row] for o in origins]
    )


def ewma_variance(returns: Array, decay: float = EWMA_DECAY) -> Array:
    """Exponentially weighted mean of squared returns (R, n), the newest weighing most: (R,)."""
    weights = decay ** np.arange(returns.shape[1])[::-1]
    return np.asarray(np.square(returns) @ (weights / weights.sum()))


def persistence(y: Array) -> Predictions:
    """The close stays where it is: a point, so its CRPS is |y|."""
    return of_normal("persistence", np.zeros_like(y), y)


def random_walk(returns: Array, y: Array) -> Predictions:
    """Gaussian steps of the context's EWMA variance; scored in closed form, not by drawing."""
    variances = np.repeat(ewma_variance(returns)[:, None], y.shape[1], axis=1)
    return of_normal("random_walk", variances, y)


def seasonal_naive(
    series: Sequence[Series], origins: Sequence[Origin], calendar: Calendar, y: Array
) -> Predictions:
    """What followed the same time of day, in the calendar's zone, on each of the last 20 days that
    have it: an ensemble of those paths.

    Only paths that were complete at the origin and cross no gap; fewer than two give no forecast.
    """
    made = Predictions.empty("seasonal_naive", *y.shape)
    logs = [one.log_closes() for one in series]
    minutes = [calendar.stamps(one.open_times)[:, :2] @ (1, 60) for one in series]
    for row, origin in enumerate(origins):
        one = series[origin.series]
        starts = _same_time(one, minutes[origin.series], origin.row, y.shape[1])
        if len(starts) >= LEAST_DAYS:
            log = logs[origin.series]
            paths = np.stack([log[s + 1 : s + 1 + y.shape[1]] - log[s] for s in starts])
            made.put(row, paths, y[row])
    return made


def _same_time(
    series: Series, minutes: NDArray[np.int64], row: int, horizon: int
) -> NDArray[np.int64]:
    """Rows of the same minute of a day (n,) on earlier days, of which all that followed is known
    by `row`."""
    known = minutes[: max(0, row + 1 - horizon)]
    rows = np.flatnonzero(known == minutes[row])[-SEASONAL_DAYS:]
    whole = series.places[rows + horizon] - series.places[rows] == horizon
    return np.asarray(rows[whole])
