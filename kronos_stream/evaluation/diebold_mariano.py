"""Is one forecaster's CRPS below another's beyond chance? Diebold and Mariano (1995)."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Array = NDArray[np.float64]


class DieboldMariano(NamedTuple):
    """Negative where the first forecaster is better."""

    difference: float
    """Mean score of the first less that of the second."""
    statistic: float
    p_value: float
    """Two-sided."""
    lags: int
    times: int


def diebold_mariano(differences: Array, *, overlap: int) -> DieboldMariano:
    """Of score differences (T,) in the order of time; forecasts made at neighbouring times share
    up to `overlap` times of their horizons.

    Long-run variance by Newey and West (1987), Bartlett weights, lags max(overlap,
    ⌊4 (T/100)^(2/9)⌋). Then Harvey, Leybourne and Newbold (1997): the statistic times
    √((T + 1 − 2h + h(h − 1)/T)/T) with h = overlap + 1, against Student's t of T − 1 degrees.
    """
    n = len(differences)
    mean = float(differences.mean())
    lags = min(n - 1, max(overlap, math.floor(4 * (n / 100) ** (2 / 9))))
    variance = long_run_variance(differences, lags) / n
    steps = overlap + 1
    correction = (n + 1 - 2 * steps + steps * (steps - 1) / n) / n
    if variance <= 0 or correction <= 0 or n < 2:
        return DieboldMariano(mean, math.nan, math.nan, lags, n)
    statistic = mean / math.sqrt(variance) * math.sqrt(correction)
    p_value = 2 * float(student.sf(abs(statistic), n - 1))
    return DieboldMariano(mean, statistic, p_value, lags, n)


def long_run_variance(values: Array, lags: int) -> float:
    """γ₀ + 2 Σ (1 − k/(lags + 1)) γ_k of values (T,), γ_k = Σ (x_t − x̄)(x_{t−k} − x̄) / T."""
    x = values - values.mean()
    total = float(x @ x)
    for k in range(1, lags + 1):
        total += 2 * (1 - k / (lags + 1)) * float(x[k:] @ x[:-k])
    return total / len(x)


def mean_by_time(values: Array, time: NDArray[np.int64]) -> Array:
    """Mean over the symbols of each origin time, in the order of time: symbols are correlated, so
    a time is one observation."""
    sums = np.bincount(time, weights=values)
    counts = np.bincount(time)
    return np.asarray(sums[counts > 0] / counts[counts > 0])
