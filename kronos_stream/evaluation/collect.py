"""One pass of the engine over all origins, reduced as it goes: paths are not kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..wire.messages import CLOSE
from .origins import Grid, Origin
from .predictions import Array, Predictions
from .sampler import Sampler
from .series import Series


@dataclass(frozen=True)
class Collected:
    """R origins that gave a forecast, of those of the grid."""

    origins: list[Origin]
    refused: dict[str, dict[str, int]]
    """Origins for which the engine gave none, by symbol and reason."""
    predictions: dict[str, Predictions]
    """By join; the first one is that of the settings."""
    z: Array
    """(R,) the last close's normalised value."""
    unit: Array
    """(R,) the anchor's std of the close ÷ the last close."""
    futures: Array
    """(R, H, 6) the first sampled path of each, as candles."""
    quantiles: Array
    """(R, H, levels) of the log returns, at the levels of the settings."""


def collect(
    sampler: Sampler,
    series: Sequence[Series],
    grid: Grid,
    y: Array,
    *,
    joins: Sequence[str],
    levels: Sequence[float],
    advance: Callable[[], None],
) -> Collected:
    """Forecasts at the grid's origins, realised returns y (R, H) beside them."""
    rows, steps = y.shape
    predictions = {join: Predictions.empty(join, rows, steps) for join in joins}
    z, unit = np.full(rows, np.nan), np.full(rows, np.nan)
    futures = np.full((rows, steps, 6), np.nan)
    quantiles = np.full((rows, steps, len(levels)), np.nan)
    refused: dict[str, dict[str, int]] = {}
    for row, sample in enumerate(sampler.samples(series, grid.origins)):
        advance()
        if sample.refused is not None:
            counts = refused.setdefault(series[sample.origin.series].symbol, {})
            counts[sample.refused] = counts.get(sample.refused, 0) + 1
            continue
        z[row] = (sample.last_close - sample.close_mean) / sample.close_std
        unit[row] = sample.close_std / sample.last_close
        for place, join in enumerate(joins):
            candles = sample.joined(join)
            returns = np.log(candles[..., CLOSE] / sample.last_close)
            predictions[join].put(row, returns, y[row])
            if place == 0:
                futures[row] = candles[0]
                quantiles[row] = np.quantile(returns, levels, axis=0).T
    given = ~np.isnan(z)
    return Collected(
        origins=[origin for origin, one in zip(grid.origins, given) if one],
        refused=refused,
        predictions={join: made.rows(given) for join, made in predictions.items()},
        z=z[given],
        unit=unit[given],
        futures=futures[given],
        quantiles=quantiles[given],
    )
