"""The anchor rule: which bars normalise a forecast, and which bars are its context.

With `anchor_every` = k > 0 an anchor holds for an epoch of k intervals: it is the `lookback` bars
before the epoch's first bar, and the context is those bars plus the epoch's bars. So everything
but the epoch's bars is known before the bar closes. k = 0 is upstream's rule: the last `lookback`
bars, the closed one among them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..model.features import PRICE_CHANNELS, STD_FLOOR, TINY_STD, Scale, tiny_price_divisor
from ..wire.ids import stable_int
from ..wire.messages import ForecastSpec


class Bars(NamedTuple):
    """The rows of a request, oldest first; `stamps` may reach into the future."""

    open_times: NDArray[np.int64]
    revisions: NDArray[np.int64]
    values: NDArray[np.float64]
    stamps: NDArray[np.int64]


class Span(NamedTuple):
    """Rows of a request: anchor and prefix are [start, split), the epoch's bars [split, end)."""

    start: int
    split: int
    end: int


class NoAnchorError(ValueError):
    """These bars give no scale; `reason` is a stable word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def epoch_of(symbol: str, open_time: int, interval_ms: int, anchor_every: int) -> int:
    """⌊(open_time / interval + blake2b(symbol)) / k⌋: symbols change epochs at different times."""
    return (open_time // interval_ms + stable_int(symbol)) // anchor_every


def span_of(
    symbol: str, open_times: NDArray[np.int64], interval_ms: int, spec: ForecastSpec
) -> Span | None:
    """The span of a forecast at the last row, None where the lookback is incomplete."""
    end = len(open_times)
    k = spec.anchor_every
    if k == 0:
        return Span(end - spec.lookback, end - 1, end) if end >= spec.lookback else None
    split = end - 1
    epoch = epoch_of(symbol, int(open_times[split]), interval_ms, k)
    while split > 0 and epoch_of(symbol, int(open_times[split - 1]), interval_ms, k) == epoch:
        split -= 1
    return Span(split - spec.lookback, split, end) if split >= spec.lookback else None


def next_prefix(
    symbol: str,
    open_times: NDArray[np.int64],
    next_open_time: int,
    interval_ms: int,
    spec: ForecastSpec,
) -> Span | None:
    """The span, still without bars of its epoch, of a forecast at the bar that follows; None
    where there is nothing to prepare."""
    if spec.anchor_every == 0 or len(open_times) < spec.lookback:
        return None
    following = np.append(open_times, next_open_time)
    span = span_of(symbol, following, interval_ms, spec)
    if span is None or span.split > len(open_times):
        return None
    return Span(span.start, span.split, len(open_times))


def anchor_of(values: NDArray[np.float64], spec: ForecastSpec) -> Scale:
    """The scale of the anchor's bars (lookback, 6); NoAnchorError where there is none."""
    if not np.isfinite(values).all():
        raise NoAnchorError("non_finite_values")
    mean, std = values.mean(0), values.std(0)
    floor = np.full(values.shape[1], STD_FLOOR)
    least = float(std[:PRICE_CHANNELS].min())
    # A constant column can leave a std of rounding size instead of 0.
    flat = np.ptp(values[:, :PRICE_CHANNELS], axis=0) == 0
    if flat.any() or least == 0.0:
        raise NoAnchorError("flat_anchor")
    if least < TINY_STD:
        if spec.tiny_prices == "skip":
            raise NoAnchorError("tiny_prices")
        floor[:PRICE_CHANNELS] /= tiny_price_divisor(np.array(least))
    return Scale(mean, std, floor)


def anchor_at(values: NDArray[np.float64], span: Span, spec: ForecastSpec) -> Scale:
    """The scale of a span's anchor, of the rows it lies in; under upstream's rule (anchor_every 0)
    the closed bar is one of them."""
    return anchor_of(values[span.start : span.start + spec.lookback], spec)
