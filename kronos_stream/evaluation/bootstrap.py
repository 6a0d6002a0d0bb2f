"""Block bootstrap over time: how far a score could have come out elsewise.

Neighbouring origins share bars, and symbols move together. So blocks of neighbouring origin times
are drawn, each time with all of its symbols (circular blocks: Politis and Romano 1992).
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 1_000
LEAST_BLOCKS: Final = 8
Array = NDArray[np.float64]


def block_length(times: int, horizon: int, stride: float) -> int:
    """Origin times of a block: two horizons, at least T^(1/3)."""
    overlapping = math.ceil(2 * horizon / max(stride, 1.0))
    return min(times, max(overlapping, math.ceil(math.cbrt(times))))


def enough(times: int, block: int) -> bool:
    """Whether there are blocks to draw from: of few, most resamples are alike."""
    return times >= LEAST_BLOCKS * block


def draw_weights(times: int, block: int, seed: int, resamples: int = RESAMPLES) -> Array:
    """How often each origin time is in each resample: (B, T), T times in all."""
    rng = np.random.default_rng(seed)
    blocks = -(-times // block)
    starts = rng.integers(0, times, (resamples, blocks))
    drawn = (starts[..., None] + np.arange(block)) % times
    drawn = drawn.reshape(resamples, -1)[:, :times]
    weights = np.zeros((resamples, times))
    np.add.at(weights, (np.arange(resamples)[:, None], drawn), 1.0)
    return weights


def interval(values: Array) -> list[float] | None:
    """The central 95 % of a score's resamples (B,); None where it is undefined in one of them."""
    if not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return [float(low), float(high)]
