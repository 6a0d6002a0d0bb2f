"""Scores of one forecaster at each step, over the origins of one symbol or of all.

Every score is a function of sums over origins, so that one place serves the estimate, a symbol's
share of it, and the bootstrap, which only weights the sums of each origin time anew.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .bootstrap import interval
from .crps import quantile_loss
from .predictions import LEVELS, Array, Predictions, path_volatility

BANDS: Final = (50, 80, 90)
"""Central bands, per cent."""
NORMAL_95: Final = 1.959963984540054


class Truth(NamedTuple):
    """What happened at each origin, and the measures that forecasts are held against: R rows."""

    y: Array
    """(R, H) log returns from the last close."""
    ewma: Array
    """(R,) EWMA standard deviation of a one-bar return."""
    z: Array
    """(R,) the last close's normalised value under the anchor."""
    unit: Array
    """(R,) the anchor's std of the close ÷ the last close: one z as a simple return."""
    symbol: NDArray[np.int64]
    """(R,)."""
    time: NDArray[np.int64]
    """(R,) number of the grid time."""

    def rows(self, chosen: NDArray[np.bool_]) -> "Truth":
        """Some of the rows."""
        return Truth(
            self.y[chosen],
            self.ewma[chosen],
            self.z[chosen],
            self.unit[chosen],
            self.symbol[chosen],
            self.time[chosen],
        )


def moments(predictions: Predictions, truth: Truth, step: int) -> dict[str, Array]:
    """What is summed over origins, at a step (0 is the first): (R,) each."""
    y, mean = truth.y[:, step], predictions.mean[:, step]
    quantiles = predictions.quantiles[:, step]
    rank_y, rank_mean = _ranks(y), _ranks(mean)
    realised = path_volatility(truth.y)[:, step]
    expected = predictions.volatility[:, step]
    median = np.sign(quantiles[:, _level(0.5)])
    decided = (median != 0) & (y != 0)
    move, moved = np.expm1(mean) / truth.unit, np.expm1(y) / truth.unit
    z = truth.z
    columns = {
        "n": np.ones_like(y),
        "crps": predictions.crps[:, step],
        "pinball": quantile_loss(quantiles, LEVELS, y),
        "absolute_error": np.abs(y - mean),
        "decided": decided.astype(float),
        "right": (decided & (median == np.sign(y))).astype(float),
        "spread": predictions.spread[:, step],
        "ewma": truth.ewma * np.sqrt(step + 1),
        "volatility_error": np.abs(realised - expected),
        "volatility_square_error": np.square(realised - expected),
        "v": realised,
        "vv": np.square(realised),
    }
    for level, below in zip(LEVELS, (y[:, None] <= quantiles).T):
        columns[f"below_{level:g}"] = below.astype(float)
    for band in BANDS:
        low, high = (quantiles[:, _level(0.5 + half * band / 200)] for half in (-1, 1))
        columns[f"within_{band}"] = ((low <= y) & (y <= high)).astype(float)
    for name, a, b in (
        ("ic", mean, y),
        ("rank_ic", rank_mean, rank_y),
        ("slope", z, move),
        ("realised_slope", z, moved),
    ):
        a, b = a - a.mean(), b - b.mean()
        products = {"a": a, "b": b, "aa": a * a, "bb": b * b, "ab": a * b}
        columns |= {f"{name}_{k}": column for k, column in products.items()}
    return columns


def scores(sums: dict[str, Array]) -> dict[str, Array]:
    """Scores of sums (...): one for each. Undefined ones are NaN."""
    n = sums["n"]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "crps": sums["crps"] / n,
            "quantile_loss": sums["pinball"] / n,
            "absolute_error": sums["absolute_error"] / n,
            "ic": _correlation(sums, "ic"),
            "rank_ic": _correlation(sums, "rank_ic"),
            "direction": sums["right"] / sums["decided"],
            "volatility_mae": sums["volatility_error"] / n,
            "volatility_r2": 1
            - sums["volatility_square_error"] / (sums["vv"] - np.square(sums["v"]) / n),
            "spread_to_ewma": sums["spread"] / sums["ewma"],
            "slope": _slope(sums, "slope"),
            "realised_slope": _slope(sums, "realised_slope"),
        }
        found |= {f"coverage_{band}": sums[f"within_{band}"] / n for band in BANDS}
    return found


def at_step(
    predictions: Predictions, truth: Truth, step: int, weights: Array | None = None
) -> dict[str, Any]:
    """Scores at a step over all rows that have a forecast; with the bootstrap's `weights` (B, T)
    an interval of each."""
    columns = moments(predictions, truth, step)
    table = np.stack(list(columns.values()), axis=1)
    total = dict(zip(columns, table.sum(0)))
    found: dict[str, Any] = {"origins": len(table)}
    found |= {name: _plain(value) for name, value in scores(total).items()}
    right, decided = total["right"], total["decided"]
    found["direction_wilson_95"] = wilson(float(right), float(decided))
    found["direction_decided"] = int(decided)
    found["below"] = [_plain(total[f"below_{level:g}"] / total["n"]) for level in LEVELS]
    if weights is not None:
        by_time = np.zeros((weights.shape[1], table.shape[1]))
        np.add.at(by_time, truth.time, table)
        redrawn = scores(dict(zip(columns, (weights @ by_time).T)))
        found["interval_95"] = {name: interval(values) for name, values in redrawn.items()}
    return found


def wilson(right: float, n: float) -> list[float] | None:
    """Wilson's 95 % interval of a share (Wilson 1927); it takes the origins for independent."""
    if n == 0:
        return None
    share, z2 = right / n, NORMAL_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_95 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return [float(middle - half), float(middle + half)]


def _correlation(sums: dict[str, Array], name: str) -> Array:
    """Pearson's, of the sums of a pair."""
    covariance, of_a, of_b = _central(sums, name)
    ok = (of_a > 0) & (of_b > 0)
    return np.where(ok, covariance / np.sqrt(np.where(ok, of_a * of_b, 1.0)), np.nan)


def _slope(sums: dict[str, Array], name: str) -> Array:
    """Least squares of b on a, with an intercept."""
    covariance, of_a, _ = _central(sums, name)
    return np.where(of_a > 0, covariance / of_a, np.nan)


def _central(sums: dict[str, Array], name: str) -> tuple[Array, Array, Array]:
    n = sums["n"]
    a, b, aa, bb, ab = (sums[f"{name}_{k}"] for k in ("a", "b", "aa", "bb", "ab"))
    return ab - a * b / n, aa - a * a / n, bb - b * b / n


def _ranks(values: Array) -> Array:
    """Ranks from 1, ties share their mean."""
    return np.asarray(pd.Series(values).rank().to_numpy(), np.float64)


def _level(level: float) -> int:
    return int(np.argmin(np.abs(LEVELS - level)))


def _plain(value: Array) -> float | None:
    """A number for JSON, which knows no NaN."""
    return float(value) if np.isfinite(value) else None
