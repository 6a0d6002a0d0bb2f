"""Windows of a bank, normalised as they will be at a forecast: statistics from before a split.

A segment that is shorter than a window makes one window, filled up on its right, where a causal
model cannot see it; the filling counts nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..model.features import CLIP, PRICE_CHANNELS, STD_FLOOR, tiny_price_divisor
from .segments import Bank
from .settings import Sampling


class Batch(NamedTuple):
    """B windows of W bars."""

    z: NDArray[np.float32]
    """(B, W, 6) normalised bars."""
    stamps: NDArray[np.int64]
    """(B, W, 5)."""
    weights: NDArray[np.float32]
    """(B, W) what each bar counts in the loss."""


class Located(NamedTuple):
    """Rows of the bank (B, W), and how many of each window are its own (B,): the rest repeat the
    last one."""

    rows: NDArray[np.int64]
    length: NDArray[np.int64]


class Parts(NamedTuple):
    """Spans of the segments' bars before and after one point in time, purged between them."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    train_until: int
    """Training bars open before this (ms)."""
    validation_from: int
    """Validation bars open at this or later (ms)."""


def split_in_time(bank: Bank, sampling: Sampling, min_segment: int) -> Parts:
    """The last share of the time that all symbols span is for validation. A window and a horizon
    before it belong to neither part, so that no forecast made there, nor its context, was learned
    from.

    Time is that of all bars read: no price, and no rule of cleaning, moves the split."""
    first, last = int(bank.times[0]), int(bank.times[-1])
    from_time = first + round((last - first) * (1 - sampling.validation_share))
    begin = int(np.searchsorted(bank.times, from_time))
    from_place = int(bank.time_places[begin])
    until_place = from_place - sampling.window - sampling.horizon
    begins = bank.places[bank.spans[:, 0]]
    before, after = bank.spans.copy(), bank.spans.copy()
    before[:, 1] = np.minimum(before[:, 1], before[:, 0] + until_place - begins)
    after[:, 0] = np.maximum(after[:, 0], after[:, 0] + from_place - begins)
    train, validation = (s[s[:, 1] - s[:, 0] >= min_segment] for s in (before, after))
    for name, spans in (("training", train), ("validation", validation)):
        if not len(spans):
            raise InputError(
                f"--bars: no segment of {min_segment} bars or more is left for {name} once time is "
                f"split at {np.datetime64(from_time, 'ms')} (--validation-share, --min-segment; "
                f"--window {sampling.window} and --horizon {sampling.horizon} lie between)"
            )
    earlier = bank.times[bank.time_places < until_place]
    return Parts(
        train,
        validation,
        train_until=int(earlier[-1]) + 1 if len(earlier) else first,
        validation_from=int(bank.times[begin]),
    )


class Windows:
    """Draws windows, uniformly over all places where one can begin."""

    def __init__(self, bank: Bank, spans: NDArray[np.int64], sampling: Sampling) -> None:
        self._bank = bank
        self._spans = spans
        self._sampling = sampling
        self.size = sampling.window
        lengths = spans[:, 1] - spans[:, 0]
        self._until = np.cumsum(np.maximum(1, lengths - sampling.window + 1))

    @property
    def count(self) -> int:
        """Places where a window can begin."""
        return int(self._until[-1])

    @property
    def bars(self) -> int:
        return int((self._spans[:, 1] - self._spans[:, 0]).sum())

    def draw(self, size: int, rng: np.random.Generator) -> Batch:
        """`size` windows; the generator alone decides which."""
        places = rng.integers(self.count, size=size)
        shares = rng.random(size)
        missing = rng.random(size) < self._sampling.volume_dropout
        return self.at(places, shares, missing)

    def fixed(
        self, size: int, rng: np.random.Generator, *, batch: int, part: int, parts: int
    ) -> Iterator[Batch]:
        """Every `parts`-th of `size` windows, from the `part`-th on, in batches; none of them
        without volume."""
        places = rng.integers(self.count, size=size)[part::parts]
        shares = rng.random(size)[part::parts]
        for begin in range(0, len(places), batch):
            cut = slice(begin, begin + batch)
            yield self.at(places[cut], shares[cut], np.zeros(len(places[cut]), bool))

    def at(
        self, places: NDArray[np.int64], shares: NDArray[np.float64], missing: NDArray[np.bool_]
    ) -> Batch:
        """The windows that begin at `places` (B,) of `count`, split at `shares` (B,) of the range
        of splits; volume and amount are left out where `missing` (B,)."""
        s = self._sampling
        rows, length = self.located(places)
        high = np.minimum(s.split_high, length - 1)
        split = s.split_low + (shares * (high - s.split_low + 1)).astype(np.int64)
        values = self._bank.values[rows].astype(np.float64)
        values[missing, :, PRICE_CHANNELS:] = 0.0
        z, flat = normalised(values, split)
        offsets = np.arange(s.window)
        weights = np.where(offsets < split[:, None], s.context_loss_weight, 1.0)
        weights[(offsets >= length[:, None]) | flat[:, None]] = 0.0
        return Batch(z, self._bank.stamps[rows].astype(np.int64), weights.astype(np.float32))

    def located(self, places: NDArray[np.int64]) -> Located:
        """The rows of the windows that begin at `places` (B,) of `count`."""
        segment = np.searchsorted(self._until, places, side="right")
        ends = self._spans[segment, 1]
        # The last place of a segment is that of its last whole window, or of its only short one.
        last = np.maximum(self._spans[segment, 0], ends - self.size)
        start = last - (self._until[segment] - 1 - places)
        rows = np.minimum(start[:, None] + np.arange(self.size), ends[:, None] - 1)
        return Located(rows, np.minimum(self.size, ends - start))


def normalised(
    values: NDArray[np.float64], split: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Bars (B, W, 6) z-scored with the statistics of each window's first `split` (B,) bars, and
    which windows have a price that does not move before it (B,).

    Mean and population std in float64; tiny prices are scaled as `tiny_prices = scale` does.
    """
    known = (np.arange(values.shape[1]) < split[:, None])[..., None]
    n = split[:, None].astype(np.float64)
    mean = np.where(known, values, 0.0).sum(1) / n
    off = values - mean[:, None]
    std = np.sqrt(np.where(known, off * off, 0.0).sum(1) / n)
    prices = std[:, :PRICE_CHANNELS]
    # Rounding leaves a constant column a std of about 1e-16 of its mean.
    flat = (prices <= 1e-12 * np.abs(mean[:, :PRICE_CHANNELS])).any(1)
    least = np.where(flat, 1.0, prices.min(1))
    floor = np.full(std.shape, STD_FLOOR)
    floor[:, :PRICE_CHANNELS] /= tiny_price_divisor(least)[:, None]
    z = np.clip(off / (std + floor)[:, None], -CLIP, CLIP)
    return z.astype(np.float32), flat
