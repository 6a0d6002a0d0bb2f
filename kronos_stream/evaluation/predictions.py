"""What one forecaster said at every origin, reduced to the figures that are scored.

Rows are origins, columns are steps; everything is about the log return from the last close.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtri

from .crps import crps_of_normal, crps_of_paths

Array = NDArray[np.float64]

LEVELS: Final = np.round(np.arange(0.05, 0.96, 0.05), 2)
"""Quantile levels of the reliability plot and the quantile loss, those of the bands among them."""


def deviation(paths: Array) -> Array:
    """Standard deviation over paths (N, H), without the bias that so few give it: exact in the mean
    for normal ones; 0 of one path."""
    n = len(paths)
    if n < 2:
        return np.zeros(paths.shape[1:])
    of_normal = math.sqrt(2 / (n - 1)) * math.exp(gammaln(n / 2) - gammaln((n - 1) / 2))
    return np.asarray(paths.std(0, ddof=1) / of_normal)


@dataclass(frozen=True)
class Predictions:
    """Of R origins and H steps; rows that a forecaster has no forecast for are NaN."""

    name: str
    crps: Array
    """(R, H)."""
    mean: Array
    """(R, H)."""
    quantiles: Array
    """(R, H, levels)."""
    spread: Array
    """(R, H): standard deviation."""
    volatility: Array
    """(R, H): expected √Σr² of the one-step returns up to the step."""

    @classmethod
    def empty(cls, name: str, rows: int, steps: int, levels: int = len(LEVELS)) -> "Predictions":
        """Without a forecast in any row."""

        def nothing(*shape: int) -> Array:
            return np.full((rows, steps, *shape), np.nan)

        return cls(name, nothing(), nothing(), nothing(levels), nothing(), nothing())

    def put(self, row: int, paths: Array, y: Array, levels: Array = LEVELS) -> None:
        """The row of one origin: sampled returns from the last close (N, H) and realised (H,)."""
        self.crps[row] = crps_of_paths(paths, y)
        self.mean[row] = paths.mean(0)
        self.quantiles[row] = np.quantile(paths, levels, axis=0).T
        self.spread[row] = deviation(paths)
        self.volatility[row] = path_volatility(paths).mean(0)

    def renamed(self, name: str) -> "Predictions":
        """The same under another name."""
        return replace(self, name=name)

    def given(self) -> NDArray[np.bool_]:
        """Which rows hold a forecast: (R,)."""
        return np.asarray(~np.isnan(self.crps).any(1))

    def rows(self, chosen: NDArray[np.bool_]) -> "Predictions":
        """Some of the rows."""
        return Predictions(
            self.name,
            self.crps[chosen],
            self.mean[chosen],
            self.quantiles[chosen],
            self.spread[chosen],
            self.volatility[chosen],
        )


def path_volatility(paths: Array) -> Array:
    """√Σr² up to each step, of returns from the last close (..., H)."""
    steps = np.diff(paths, axis=-1, prepend=0.0)
    return np.asarray(np.sqrt(np.square(steps).cumsum(-1)))


def of_normal(name: str, variances: Array, y: Array) -> Predictions:
    """Gaussian returns without a drift: one-step variances (R, H), realised y (R, H).

    The expected √Σr² is √Σσ² · √(2/ν) Γ((ν + 1)/2) / Γ(ν/2), with ν = (Σσ²)²/Σσ⁴ degrees of
    freedom (exact where all variances are equal; Satterthwaite's otherwise).
    """
    total = variances.cumsum(-1)
    sigma = np.sqrt(total)
    squares = np.square(variances).cumsum(-1)
    freedom = np.divide(total**2, squares, out=np.ones_like(total), where=squares > 0)
    factor = np.sqrt(2 / freedom) * np.exp(gammaln((freedom + 1) / 2) - gammaln(freedom / 2))
    return Predictions(
        name=name,
        crps=crps_of_normal(sigma, y),
        mean=np.zeros_like(y),
        quantiles=sigma[..., None] * ndtri(LEVELS),
        spread=sigma,
        volatility=sigma * factor,
    )
