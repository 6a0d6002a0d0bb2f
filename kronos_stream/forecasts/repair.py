"""Sampled candles made possible ones, path by path, before any quantile is taken."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..wire.messages import CLOSE, HIGH, LOW, VOLUME

PRICE_FLOOR: Final = 1e-6
"""Least price, as a share of the last close: a log return needs a price above zero."""


class Repaired(NamedTuple):
    """Paths (N, steps, 6) and the share of candles that had to be changed."""

    paths: NDArray[np.float64]
    share: float


def repair(paths: NDArray[np.float64], last_close: float) -> Repaired:
    """high ≥ max(open, close), low ≤ min(open, close), prices above zero, volume and amount not
    negative."""
    fixed = paths.copy()
    prices = fixed[..., : CLOSE + 1]
    np.maximum(prices, last_close * PRICE_FLOOR, out=prices)
    # Both before either is written: a high and a low that crossed change places.
    fixed[..., HIGH], fixed[..., LOW] = prices.max(-1), prices.min(-1)
    np.maximum(fixed[..., VOLUME:], 0.0, out=fixed[..., VOLUME:])
    return Repaired(fixed, float((fixed != paths).any(-1).mean()))
