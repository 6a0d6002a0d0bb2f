"""Sampled paths to the figures of a forecast record; nothing is averaged before them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..wire.messages import CHANNELS, CLOSE


class Figures(NamedTuple):
    """Named as the fields of a Forecast."""

    quantiles: dict[str, list[list[float]]]
    mean: dict[str, list[float]]
    p_up: list[float]
    volatility_mean: float
    volatility_quantiles: list[float]


def figures(paths: NDArray[np.float64], last_close: float, levels: Sequence[float]) -> Figures:
    """Of repaired paths (N, steps, 6): linear-interpolation quantiles of every channel and step,
    the mean path, P(close above last close), and √Σr² of each path's log returns."""
    table = np.quantile(paths, levels, axis=0).transpose(2, 1, 0)
    mean = paths.mean(0).T
    close = paths[..., CLOSE]
    first = np.full((len(close), 1), last_close)
    returns = np.diff(np.log(np.concatenate((first, close), axis=1)), axis=1)
    volatility = np.sqrt(np.square(returns).sum(1))
    return Figures(
        quantiles={name: table[i].tolist() for i, name in enumerate(CHANNELS)},
        mean={name: mean[i].tolist() for i, name in enumerate(CHANNELS)},
        p_up=(close > last_close).mean(0).tolist(),
        volatility_mean=float(volatility.mean()),
        volatility_quantiles=np.quantile(volatility, levels).tolist(),
    )
