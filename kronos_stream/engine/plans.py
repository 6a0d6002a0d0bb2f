"""What a request needs of the engine: its scale, its normalised bars, and the keys under which its
prefix and the bars behind it are cached."""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..model.features import Scale
from ..wire.messages import ForecastSpec
from .anchors import Bars, NoAnchorError, Span, anchor_of, next_prefix, span_of
from .messages import EngineRequest, rows


class Plan(NamedTuple):
    """One context: rows [0, prefix) are the prefix, named by `key`; `tail` has a digest for each
    bar behind it. z is (n, 6), stamps (n, 5)."""

    span: Span
    scale: Scale
    z: NDArray[np.float32]
    stamps: NDArray[np.int64]
    prefix: int
    key: bytes
    tail: list[bytes]


def bars_of(request: EngineRequest) -> Bars:
    """The request's rows as arrays."""
    return Bars(
        rows(request.open_times, None, "<i8").astype(np.int64),
        rows(request.revisions, None, "<i8").astype(np.int64),
        rows(request.values, 6, "<f8").astype(np.float64),
        rows(request.stamps, 5, "<i8").astype(np.int64),
    )


class Planner:
    """Plans under one model and one set of settings."""

    def __init__(self, revision: str, spec: ForecastSpec) -> None:
        self._spec = spec
        self._settled = repr((revision, spec.dtype, spec.fine_head_rotary)).encode()

    def close(self, request: EngineRequest, bars: Bars) -> Plan:
        """The context of a forecast at the last bar; NoAnchorError where there is none."""
        span = span_of(request.symbol, bars.open_times, request.interval_ms, self._spec)
        if span is None:
            raise NoAnchorError("lookback_incomplete")
        if not np.isfinite(bars.values[span.start : span.end]).all():
            raise NoAnchorError("non_finite_values")
        return self._plan(bars, span)

    def following(self, request: EngineRequest, bars: Bars) -> Plan | None:
        """The prefix of a forecast at the bar that follows, None where there is nothing to
        prepare."""
        span = next_prefix(
            request.symbol,
            bars.open_times,
            request.next_open_time,
            request.interval_ms,
            self._spec,
        )
        if span is None:
            return None
        try:
            return self._plan(bars, span)
        except NoAnchorError:
            return None

    def _plan(self, bars: Bars, span: Span) -> Plan:
        anchor_rows = slice(span.start, span.start + self._spec.lookback)
        scale = anchor_of(bars.values[anchor_rows], self._spec)
        digest = hashlib.blake2b(self._settled, digest_size=16)
        for part in scale:
            digest.update(part.tobytes())
        chain: list[bytes] = []
        for row in range(span.start, span.end):
            if row == span.split:
                key = digest.digest()
            digest.update(bars.open_times[row].tobytes() + bars.revisions[row].tobytes())
            digest.update(bars.values[row].tobytes() + bars.stamps[row].tobytes())
            if row >= span.split:
                chain.append(digest.digest())
        if span.split == span.end:
            key = digest.digest()
        return Plan(
            span=span,
            scale=scale,
            z=scale.normalise(bars.values[span.start : span.end]),
            stamps=bars.stamps[span.start : span.end],
            prefix=span.split - span.start,
            key=key,
            tail=chain,
        )
