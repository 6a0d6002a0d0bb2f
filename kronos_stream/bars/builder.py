"""One bar being built from trades in any order.

Open and close are first and last by (trade time, trade id), or by log offset where there are no
ids; everything else is commutative and exact, so any order of the same trades gives the same bar.
"""

from ..wire.messages import Bar
from .partials import Partial


class BarBuilder:
    """Integers of the symbol's scale (10^digits); `first_offset` and `watermark_before` are where
    in the log the bar began, and the watermark just before that record."""

    __slots__ = (
        "amount",
        "close",
        "close_key",
        "first_id",
        "first_offset",
        "high",
        "ids",
        "last_id",
        "low",
        "open",
        "open_key",
        "trades",
        "volume",
        "watermark_before",
    )

    def __init__(self, first_offset: int, watermark_before: int | None) -> None:
        self.first_offset = first_offset
        self.watermark_before = watermark_before
        self.trades = 0
        self.volume = 0
        self.amount = 0
        self.open = self.close = self.high = self.low = 0
        self.open_key = self.close_key = (0, 0)
        self.ids: set[int] = set()
        self.first_id: int | None = None
        self.last_id: int | None = None

    def add(self, offset: int, time: int, price: int, qty: int, trade_id: int | None) -> None:
        """One trade that is not a duplicate."""
        key = (time, offset if trade_id is None else trade_id)
        if not self.trades:
            self.open = self.close = self.high = self.low = price
            self.open_key = self.close_key = key
        else:
            if price > self.high:
                self.high = price
            elif price < self.low:
                self.low = price
            if key < self.open_key:
                self.open, self.open_key = price, key
            if key >= self.close_key:
                self.close, self.close_key = price, key
        self.trades += 1
        self.volume += qty
        self.amount += price * qty
        if trade_id is not None:
            self.ids.add(trade_id)
            if self.first_id is None or trade_id < self.first_id:
                self.first_id = trade_id
            if self.last_id is None or trade_id > self.last_id:
                self.last_id = trade_id

    def merge(self, part: Partial) -> None:
        """Later trades of the log, summed up; their ids are in `ids` already."""
        if not self.trades:
            self.open, self.open_key = part.open, part.open_key
            self.close, self.close_key = part.close, part.close_key
            self.high, self.low = part.high, part.low
        else:
            self.high = max(self.high, part.high)
            self.low = min(self.low, part.low)
            if part.open_key < self.open_key:
                self.open, self.open_key = part.open, part.open_key
            if part.close_key >= self.close_key:
                self.close, self.close_key = part.close, part.close_key
        self.trades += part.trades
        self.volume += part.volume
        self.amount += part.amount
        if part.first_id is not None and part.last_id is not None:
            self.first_id = (
                part.first_id if self.first_id is None else min(self.first_id, part.first_id)
            )
            self.last_id = part.last_id if self.last_id is None else max(self.last_id, part.last_id)

    def has_hole(self, previous_id: int | None) -> bool:
        """Whether contiguous ids lack one, within the bar or before it."""
        if self.first_id is None or self.last_id is None:
            return False
        after_gap = previous_id is not None and self.first_id != previous_id + 1
        return after_gap or self.last_id - self.first_id + 1 != len(self.ids)

    def bar(
        self,
        symbol: str,
        interval: str,
        open_time: int,
        close_time: int,
        *,
        digits: int,
        prev_open_time: int | None,
        complete: bool,
    ) -> Bar:
        """The closed bar: every figure the nearest double of its exact value."""
        scale = 10**digits
        return Bar(
            symbol=symbol,
            interval=interval,
            open_time=open_time,
            close_time=close_time,
            open=self.open / scale,
            high=self.high / scale,
            low=self.low / scale,
            close=self.close / scale,
            volume=self.volume / scale,
            amount=self.amount / scale**2,
            trades=self.trades,
            first_trade_id=self.first_id,
            last_trade_id=self.last_id,
            prev_open_time=prev_open_time,
            complete=complete,
        )
