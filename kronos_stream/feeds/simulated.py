"""The simulated feed: the market model's trades as ticks in virtual time, with history before."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from ..settings import FeedSettings
from ..wire.ids import stable_int
from ..wire.intervals import DAY_MS, INTERVAL_MS
from ..wire.messages import Bar, Tick
from .market import MINUTE_MS, SymbolMarket

YEAR_MS: Final = 366 * DAY_MS
LATE_MS: Final = 15_000
"""A late tick arrives about this long after the bar that it belongs to is closed."""


class Arrival(NamedTuple):
    """A tick and the virtual time (ms) at which the feed writes it; None: time passes, no more."""

    at: int
    tick: Tick | None


@dataclass(frozen=True)
class Resume:
    """Where a symbol's earlier run ended: its last trade id and price."""

    last_id: int
    price: float


class SimulatedFeed:
    """Seeded: the same settings give the same ticks. `start_ms` is a full minute; `resume`
    continues earlier symbols with the ids and prices that follow."""

    def __init__(
        self,
        symbols: Sequence[str],
        settings: FeedSettings,
        *,
        interval: str,
        grace_ms: int,
        start_ms: int,
        resume: Mapping[str, Resume] | None = None,
    ) -> None:
        self._settings = settings
        self._interval = interval
        self._interval_ms = INTERVAL_MS[interval]
        self._grace_ms = grace_ms
        self.start_ms = start_ms
        self._markets = {
            s: SymbolMarket.of(s, settings.seed, settings.ticks_per_minute) for s in symbols
        }
        self._last_ids = dict.fromkeys(symbols, 0)
        for symbol, earlier in (resume or {}).items():
            if symbol in self._markets:
                self._markets[symbol].price = earlier.price
                self._last_ids[symbol] = earlier.last_id

    def history(
        self, symbol: str, bars: int, exists: Callable[[int], bool] = lambda open_time: True
    ) -> list[Bar]:
        """The `bars` bars before the first tick of which the interval exists, fewer where that
        takes over a year; the ticks go on from their last close. To be called before `minutes`,
        once a symbol."""
        minutes = self._interval_ms // MINUTE_MS
        market = self._markets[symbol]
        end = self.start_ms - self.start_ms % self._interval_ms
        before = range(end - self._interval_ms, end - YEAR_MS, -self._interval_ms)
        open_times = list(islice(filter(exists, before), bars))
        made: list[Bar] = []
        for open_time in reversed(open_times):
            candle = market.bar(open_time // MINUTE_MS, minutes)
            made.append(
                Bar(
                    symbol=symbol,
                    interval=self._interval,
                    open_time=open_time,
                    close_time=open_time + self._interval_ms,
                    open=candle.open,
                    high=candle.high,
                    low=candle.low,
                    close=candle.close,
                    volume=candle.volume,
                    amount=candle.amount,
                    trades=candle.trades,
                    prev_open_time=made[-1].open_time if made else None,
                    history=True,
                )
            )
        return made

    def minutes(self) -> Iterator[tuple[int, list[Arrival]]]:
        """Without end: the end of each minute of virtual time (ms), and what arrives up to it, in
        the order of arrival."""
        minute = self.start_ms // MINUTE_MS
        delayed: list[Arrival] = []
        while True:
            arrivals = delayed
            for symbol, market in self._markets.items():
                arrivals.extend(self._disordered(symbol, minute, self._ticks(market, minute)))
            arrivals.sort(key=lambda arrival: arrival.at)
            minute += 1
            end = minute * MINUTE_MS
            delayed = [arrival for arrival in arrivals if arrival.at >= end]
            yield end, [arrival for arrival in arrivals if arrival.at < end]

    def _ticks(self, market: SymbolMarket, minute: int) -> list[Tick]:
        made = market.minute(minute)
        first = self._last_ids[market.symbol] + 1
        self._last_ids[market.symbol] += len(made.times)
        return [
            Tick(
                symbol=market.symbol,
                price=_decimal(price, market.price_digits),
                qty=_decimal(qty, market.qty_digits),
                time=time,
                trade_id=first + i,
                side="buy" if buy else "sell",
            )
            for i, (time, price, qty, buy) in enumerate(
                zip(*(column.tolist() for column in made), strict=True)
            )
        ]

    def _disordered(self, symbol: str, minute: int, ticks: list[Tick]) -> list[Arrival]:
        """Each tick as it arrives: mostly at its own time, on request later, twice, or too late."""
        s = self._settings
        if not (s.duplicates or s.out_of_order or s.late):
            return [Arrival(tick.time, tick) for tick in ticks]
        rng = np.random.default_rng([s.seed, stable_int("disorder", symbol), minute])
        arrivals: list[Arrival] = []
        for tick in ticks:
            at = tick.time
            if rng.random() < s.late:
                close = at - at % self._interval_ms + self._interval_ms
                at = close + self._grace_ms + int(rng.integers(1, LATE_MS))
            elif rng.random() < s.out_of_order:
                at += int(rng.integers(0, max(1, self._grace_ms)))
            arrivals.append(Arrival(at, tick))
            if rng.random() < s.duplicates:
                arrivals.append(Arrival(at + int(rng.integers(0, max(1, self._grace_ms))), tick))
        return arrivals


def _decimal(units: int, digits: int) -> str:
    if not digits:
        return str(units)
    text = str(units).rjust(digits + 1, "0")
    return f"{text[:-digits]}.{text[-digits:]}"
