"""The replay feed: a ticks file in virtual time, in the order of the file."""

from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path

from ..errors import InputError, RejectedError, some_of
from ..wire.foreign import checked_time
from ..wire.messages import Tick
from ..wire.tick_files import read_ticks
from .simulated import Arrival


class ReplayFeed:
    """The ticks of the listed symbols (None: all) in a file; each arrives at its own time, or
    right after the one before it where the file is not in order. Of the others the time counts."""

    def __init__(self, path: str | Path, symbols: frozenset[str] | None) -> None:
        self._path = Path(path)
        self._symbols = symbols
        for number, arrival in enumerate(self._rows()):
            if arrival.tick is not None:
                self.first_ms = arrival.at
                """Time of the first tick of a listed symbol."""
                self.preceded = number > 0
                """Whether others' ticks come before it."""
                return
        wanted = "any tick" if symbols is None else f"ticks of {', '.join(sorted(symbols))}"
        there = dict.fromkeys(s for batch in read_ticks(path) for s in batch.symbol)
        raise InputError(f"{path}: expected {wanted}, found {some_of(there)}")

    def arrivals(self) -> Iterator[Arrival]:
        """From the first tick of a listed symbol on."""
        return dropwhile(lambda arrival: arrival.tick is None, self._rows())

    def _rows(self) -> Iterator[Arrival]:
        at, row = 0, 0
        for batch in read_ticks(self._path):
            for symbol, price, qty, time, trade_id, side in zip(*batch, strict=True):
                row += 1
                try:
                    checked_time(time, "time")
                except RejectedError as error:
                    raise InputError(f"{self._path}: row {row}: {error.detail}") from error
                at = max(at, time)
                if self._symbols is not None and symbol not in self._symbols:
                    yield Arrival(at, None)
                    continue
                yield Arrival(
                    at,
                    Tick(
                        symbol=symbol,
                        price=price,
                        qty=qty,
                        time=time,
                        trade_id=trade_id,
                        side="buy" if side == "buy" else "sell" if side == "sell" else None,
                    ),
                )
