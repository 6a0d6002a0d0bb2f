"""Which bars are fit to learn from: cuts and drops, as published for 5-minute data."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..wire.messages import CLOSE, OPEN, VOLUME
from .settings import Cleaning


class Dropped(NamedTuple):
    """What cleaning did to one symbol. Gaps and jumps are cuts, the rest counts bars."""

    bars: int
    gaps: int
    jumps: int
    outside_sessions: int
    illiquid: int
    stagnant: int
    short: int
    kept: int
    segments: int


class Cleaned(NamedTuple):
    """Rows [start, end) of each segment (S, 2), and what was dropped."""

    spans: NDArray[np.int64]
    dropped: Dropped


def clean(places: NDArray[np.int64], values: NDArray[np.float64], rules: Cleaning) -> Cleaned:
    """Segments of one symbol's bars: no segment holds a gap, a jump, a long illiquid run or a long
    stagnant one.

    `places` (n,) are the calendar's ordinals, in order; `values` (n, 6).
    """
    n = len(places)
    gap = np.ones(n, bool)
    gap[1:] = np.diff(places) != 1
    jump = np.zeros(n, bool)
    jump[1:] = np.abs(values[1:, OPEN] / values[:-1, CLOSE] - 1) > rules.max_jump
    jump &= ~gap
    cut = gap | jump
    # A symbol that never has volume (an index, an exchange rate) says nothing by its zeros.
    silent = values[:, VOLUME] == 0
    if silent.all():
        silent[:] = False
    changed = cut.copy()
    changed[1:] |= silent[1:] != silent[:-1]
    illiquid = silent & (_run_lengths(changed) > rules.max_illiquid)
    moved = cut.copy()
    moved[1:] |= values[1:, CLOSE] != values[:-1, CLOSE]
    stagnant = (_run_lengths(moved) > rules.max_stagnant) & ~illiquid
    kept = ~illiquid & ~stagnant
    spans = _spans(kept, cut)
    lengths = spans[:, 1] - spans[:, 0]
    long = lengths >= rules.min_segment
    return Cleaned(
        spans[long],
        Dropped(
            bars=n,
            gaps=int(gap[1:].sum()),
            jumps=int(jump.sum()),
            outside_sessions=0,
            illiquid=int(illiquid.sum()),
            stagnant=int(stagnant.sum()),
            short=int(lengths[~long].sum()),
            kept=int(lengths[long].sum()),
            segments=int(long.sum()),
        ),
    )


def _run_lengths(begins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The length of the run that each element is in; `begins` marks the first of each run."""
    run = np.cumsum(begins) - 1
    lengths: NDArray[np.int64] = np.bincount(run)[run] if len(run) else np.zeros(0, np.int64)
    return lengths


def _spans(kept: NDArray[np.bool_], cut: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rows [start, end) of the longest runs of kept bars without a cut inside: (S, 2)."""
    before = np.concatenate(([False], kept[:-1]))
    after = np.concatenate((kept[1:], [False]))
    cut_after = np.concatenate((cut[1:], [True]))
    starts = np.flatnonzero(kept & (~before | cut))
    ends = np.flatnonzero(kept & (~after | cut_after)) + 1
    return np.stack((starts, ends), axis=-1)
