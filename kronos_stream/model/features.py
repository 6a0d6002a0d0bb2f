"""What the model is fed: bars normalised channel by channel."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

CLIP: Final = 5.0
STD_FLOOR: Final = 1e-5
"""Added to each standard deviation, as in the data that Kronos was trained on."""
TINY_STD: Final = 1e-4
"""A price channel's std under which the floor of 1e-5 would distort the scale."""
GOOD_STD: Final = 1e-2
PRICE_CHANNELS: Final = 4


class Scale(NamedTuple):
    """Mean, population standard deviation and its floor of each channel, float64 (6,)."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    floor: NDArray[np.float64]

    def normalise(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """(..., 6) → z clipped to ±5."""
        z = (np.asarray(values, np.float64) - self.mean) / (self.std + self.floor)
        return np.clip(z, -CLIP, CLIP).astype(np.float32)

    def restore(self, z: NDArray[np.float32]) -> NDArray[np.float64]:
        """z (..., 6) → values in the channels' own units."""
        return np.asarray(z, np.float64) * (self.std + self.floor) + self.mean


def scale_of(values: NDArray[np.float64]) -> Scale:
    """The scale of bars (n, 6), in float64."""
    wide = np.asarray(values, np.float64)
    return Scale(wide.mean(0), wide.std(0), np.full(wide.shape[1], STD_FLOOR))


def tiny_price_divisor(least_std: NDArray[np.float64]) -> NDArray[np.float64]:
    """10^n, the power of ten that lifts the smallest price std (..., above 0) to GOOD_STD where it
    is under TINY_STD, else 1. Prices × 10^n with the floor kept is the same as prices kept with
    the floor ÷ 10^n."""
    power = np.ceil(np.log10(GOOD_STD / np.maximum(least_std, 1e-300)))
    return np.asarray(np.where(least_std < TINY_STD, 10.0**power, 1.0))
