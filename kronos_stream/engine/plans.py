"""What a request needs of the engine: its scale, its normalised bars, and the digests under which
its prefix and the bars behind it are cached."""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..model.features import Scale
from ..wire.messages import ForecastSpec
from .anchors import Bars, NoAnchorError, Span, anchor_at, next_prefix, span_of
from .messages import EngineRequest, rows


class Prefix:
    """The bars before an epoch's first: what can be prefilled before a bar closes."""

    def __init__(self, bars: Bars, scale: Scale, settled: bytes) -> None:
        """`settled` names all else that the keys and values depend on."""
        self.bars = bars
        self.scale = scale
        self.z = scale.normalise(bars.values)
        self.digest = hashlib.blake2b(settled, digest_size=16)
        for part in (*scale, *bars):
            self.digest.update(part.tobytes())
        self.key = self.digest.digest()

    def __len__(self) -> int:
        return len(self.z)

    def is_of(self, bars: Bars) -> bool:
        """Whether it was made of these bars."""
        return all(map(np.array_equal, self.bars, bars))


class Plan(NamedTuple):
    """One context: the prefix and the bars behind it, z (n, 6), stamps (n, 5), a digest each."""

    span: Span
    prefix: Prefix
    z: NDArray[np.float32]
    stamps: NDArray[np.int64]
    tail: list[bytes]

    @property
    def length(self) -> int:
        """Bars of the whole context."""
        return len(self.prefix) + len(self.tail)


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

    def close(self, request: EngineRequest, bars: Bars, known: Prefix | None) -> Plan:
        """The context of a forecast at the last bar; NoAnchorError where there is none. `known`
        is a prefix of the symbol that need not be made again."""
        span = span_of(request.symbol, bars.open_times, request.interval_ms, self._spec)
        if span is None:
            raise NoAnchorError("lookback_incomplete")
        if not np.isfinite(bars.values[span.start : span.end]).all():
            raise NoAnchorError("non_finite_values")
        prefix = self._prefix(bars, span, known)
        newest = _cut(bars, span.split, span.end)
        digest = prefix.digest.copy()
        tail: list[bytes] = []
        for row in range(len(newest.values)):
            for part in newest:
                digest.update(part[row].tobytes())
            tail.append(digest.digest())
        return Plan(span, prefix, prefix.scale.normalise(newest.values), newest.stamps, tail)

    def following(self, request: EngineRequest, known: Prefix | None) -> Prefix | None:
        """The prefix of a forecast at the bar that follows, None where there is nothing to
        prepare."""
        bars = bars_of(request)
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
            return self._prefix(bars, span, known)
        except NoAnchorError:
            return None

    def _prefix(self, bars: Bars, span: Span, known: Prefix | None) -> Prefix:
        rows = _cut(bars, span.start, span.split)
        # Without epochs the scale is the last bar's as well, which is not among the rows.
        if self._spec.anchor_every and known is not None and known.is_of(rows):
            return known
        return Prefix(rows, anchor_at(bars.values, span, self._spec), self._settled)


def _cut(bars: Bars, start: int, end: int) -> Bars:
    rows = slice(start, end)
    return Bars(bars.open_times[rows], bars.revisions[rows], bars.values[rows], bars.stamps[rows])
