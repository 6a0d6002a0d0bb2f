"""A window: the bars of one symbol that a forecast may see, oldest first, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..wire.ids import context_digest
from ..wire.messages import CHANNELS, Bar


@dataclass(frozen=True)
class Window:
    """n bars: open times and revisions (n,) int64, values (n, 6) float64 in the channels' order,
    flags (n,) bool. At least one bar."""

    symbol: str
    interval: str
    open_times: NDArray[np.int64]
    revisions: NDArray[np.int64]
    values: NDArray[np.float64]
    synthetic: NDArray[np.bool_]
    complete: NDArray[np.bool_]
    history: NDArray[np.bool_]

    @classmethod
    def from_bars(cls, bars: Sequence[Bar]) -> "Window":
        """The window of bars in the order of their open times."""
        return cls(
            symbol=bars[0].symbol,
            interval=bars[0].interval,
            open_times=np.array([bar.open_time for bar in bars], np.int64),
            revisions=np.array([bar.revision for bar in bars], np.int64),
            values=np.array([[getattr(bar, c) for c in CHANNELS] for bar in bars], np.float64),
            synthetic=np.array([bar.synthetic for bar in bars], np.bool_),
            complete=np.array([bar.complete for bar in bars], np.bool_),
            history=np.array([bar.history for bar in bars], np.bool_),
        )

    def __len__(self) -> int:
        return len(self.open_times)

    def rows(self, start: int) -> "Window":
        """The bars from row `start` on."""
        return Window(
            self.symbol,
            self.interval,
            self.open_times[start:],
            self.revisions[start:],
            self.values[start:],
            self.synthetic[start:],
            self.complete[start:],
            self.history[start:],
        )

    def tail(self, n: int) -> "Window":
        """The last `n` bars, or all where there are fewer."""
        return self.rows(max(0, len(self) - n))

    def digest(self) -> str:
        """Digest over the records: open times, revisions, values."""
        return context_digest(self.open_times, self.revisions, self.values)
