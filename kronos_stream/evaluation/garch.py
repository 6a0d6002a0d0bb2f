"""GARCH(1,1) at the model's origins: fitted before each, and run through its context.

v' = ω + α r² + β v for the next bar; further ahead v' = ω + (α + β) v (Bollerslev 1986).
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from arch import arch_model

from ..wire.intervals import DAY_MS
from .origins import Origin
from .predictions import Array, Predictions, of_normal
from .series import Series

FIT_BARS: Final = 2_000
"""Returns of a fit, at most: a week of 5-minute bars."""
LEAST_BARS: Final = 200
REFIT_MS: Final = DAY_MS
"""A symbol's parameters serve the origins of so long a time."""


class Parameters(NamedTuple):
    """Of returns divided by `scale`."""

    omega: float
    alpha: float
    beta: float
    scale: float


UNFITTED: Final = Parameters(0.05, 0.05, 0.90, 0.0)
"""Where there is no fit: ω makes the long-run variance that of the data. A scale of 0 is the
context's own."""


def garch(
    series: Sequence[Series],
    origins: Sequence[Origin],
    returns: Array,
    y: Array,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Predictions, dict[str, int]]:
    """Gaussian steps with GARCH variances, and how many fits were made and failed; after one that
    failed the next origin has its own.

    `returns` (R, n) are the contexts' own, through which the variance is run up to each origin.
    """
    parameters: list[Parameters] = [UNFITTED] * len(origins)
    counts = {"fits": 0, "failed": 0}
    for number, one in enumerate(series):
        fitted_at: int | None = None
        current = UNFITTED
        for row, origin in enumerate(origins):
            if origin.series != number:
                continue
            open_time = int(one.open_times[origin.row])
            if fitted_at is None or open_time - fitted_at >= REFIT_MS:
                current, failed = _fit(one, origin.row)
                fitted_at = None if failed else open_time
                counts["fits"] += 1
                counts["failed"] += failed
            parameters[row] = current
            advance()
    variances = _ahead(parameters, returns, y.shape[1])
    return of_normal("garch", variances, y), counts


def _fit(series: Series, row: int) -> tuple[Parameters, bool]:
    """Parameters from the last returns up to `row`, and whether the fit failed."""
    first = max(0, row - FIT_BARS)
    logs = series.log_closes()[first : row + 1]
    returns = np.diff(logs)[np.diff(series.places[first : row + 1]) == 1]
    scale = float(returns.std()) if len(returns) else 0.0
    if len(returns) < LEAST_BARS or scale == 0.0:
        return UNFITTED._replace(scale=scale), True
    model = arch_model(returns / scale, mean="Zero", vol="GARCH", p=1, q=1, rescale=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = model.fit(disp="off", show_warning=False)
    omega, alpha, beta = (float(p) for p in result.params)
    if result.convergence_flag != 0 or not np.isfinite([omega, alpha, beta]).all():
        return UNFITTED._replace(scale=scale), True
    return Parameters(omega, alpha, beta, scale), False


def _ahead(parameters: Sequence[Parameters], returns: Array, steps: int) -> Array:
    """One-step variances (R, steps) after the returns (R, n)."""
    omega, alpha, beta, scale = np.array(parameters).T
    own = np.sqrt(np.square(returns).mean(1))
    unit = np.where(scale > 0, scale, np.where(own > 0, own, 1.0))
    z = returns / unit[:, None]
    v = np.square(z).mean(1)
    for column in z.T:
        v = omega + alpha * np.square(column) + beta * v
    ahead = np.empty((len(z), steps))
    for step in range(steps):
        ahead[:, step] = v
        v = omega + (alpha + beta) * v
    return ahead * np.square(unit)[:, None]
