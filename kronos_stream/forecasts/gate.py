"""The burst gate: all symbols close in one instant, and one batch serves them all.

A batch is ready `gate_ms` after its first bar, or when every symbol that is known has closed, or
when it is full; latecomers form the next one. Its clock is one that nobody sets back.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Gate(Generic[T]):
    """Waiting items by symbol, oldest first."""

    def __init__(
        self,
        *,
        gate_ms: int,
        max_batch: int,
        max_batch_ms: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gate_ms = gate_ms
        self._max_batch = max_batch
        self._max_batch_ms = max_batch_ms
        self._monotonic = monotonic
        self._waiting: OrderedDict[int, tuple[str, T]] = OrderedDict()
        self._first = self._next = 0
        self._opened_at: float | None = None
        self._size = max_batch
        """Items of the next batch, at most."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, symbol: str, item: T) -> None:
        """One more item; the first of a batch opens the gate's window."""
        if self._opened_at is None:
            self._opened_at = self._monotonic()
        self._waiting[self._next] = (symbol, item)
        self._next += 1

    def put_back(self, items: list[tuple[str, T]]) -> None:
        """A batch that could not be used, (symbol, item) each, before everything that waits:
        items are to be finished in their order."""
        self._opened_at = self._monotonic()
        for symbol, item in reversed(items):
            self._first -= 1
            self._waiting[self._first] = (symbol, item)
            self._waiting.move_to_end(self._first, last=False)

    def wait_s(self, known_symbols: int) -> float | None:
        """Seconds until a batch is ready: 0 is now, None is not before another item."""
        if self._opened_at is None:
            return None
        distinct = len({symbol for symbol, _ in self._waiting.values()})
        if distinct >= min(known_symbols, self._size):
            return 0.0
        return max(0.0, self._opened_at + self._gate_ms / 1000 - self._monotonic())

    def take(self, *, newest_first: bool) -> list[T]:
        """The next batch: at most one item a symbol, in its order."""
        order = list(self._waiting)
        if newest_first:
            order.reverse()
        taken: list[int] = []
        symbols: set[str] = set()
        for number in order:
            symbol = self._waiting[number][0]
            if symbol not in symbols and len(taken) < self._size:
                symbols.add(symbol)
                taken.append(number)
        items = [self._waiting.pop(number)[1] for number in taken]
        self._opened_at = self._monotonic() if self._waiting else None
        return items

    def took(self, items: int, elapsed_ms: float) -> None:
        """How long a batch took: one over `max_batch_ms` makes the next smaller in proportion,
        one well under it lets them grow again. Not a price for each item: much of a batch is
        the same for few as for many, so that small batches would price themselves ever smaller."""
        if elapsed_ms > self._max_batch_ms:
            self._size = max(1, int(items * self._max_batch_ms / elapsed_ms))
        elif elapsed_ms < self._max_batch_ms / 2 and items >= self._size:
            self._size = min(self._max_batch, 2 * self._size)
