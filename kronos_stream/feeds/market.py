"""A market model: what the simulated feed trades. Pure and seeded, no clock.

Log returns follow a GARCH(1,1) per minute with Student-t shocks and rare jumps; activity and
volatility follow the hour of the day; symbols differ in price, volatility and busyness. Every
minute of a symbol draws from its own random stream (seed, symbol, minute), so that the trades of a
minute depend on nothing but the state in which the minute before left the price.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..wire.ids import stable_int

MINUTE_MS: Final = 60_000
_MINUTES_A_DAY: Final = 1_440
_KNOWN_PRICES: Final = {
    "BTC": 94_000.0,
    "ETH": 3_400.0,
    "SOL": 190.0,
    "BNB": 700.0,
    "XRP": 2.1,
    "ADA": 0.85,
    "DOGE": 0.32,
}
"""Roughly the prices at the simulated feed's default beginning."""

_ALPHA, _BETA = 0.10, 0.88
_SHOCK_FREEDOM: Final = 5.0
_JUMPS_A_DAY: Final = 2.0
_JUMP_SIGMAS: Final = 8.0
_MAX_VARIANCE_RATIO: Final = 25.0


class MinuteTrades(NamedTuple):
    """The trades of one symbol in one minute, in time order: times (ms), prices and quantities as
    multiples of the tick and lot size, and whether the taker bought."""

    times: NDArray[np.int64]
    prices: NDArray[np.int64]
    qtys: NDArray[np.int64]
    buys: NDArray[np.bool_]


class Candle(NamedTuple):
    """One bar without its single trades."""

    open: float
    high: float
    low: float
    close: float
    volume: float
    amount: float
    trades: int


@dataclass
class SymbolMarket:
    """One symbol's state: log price and the ratio of its variance to its long-run level."""

    symbol: str
    seed: int
    price: float
    ticks_per_minute: float
    sigma: float
    price_digits: int
    qty_digits: int
    mean_qty: float
    variance_ratio: float = 1.0

    @classmethod
    def of(cls, symbol: str, seed: int, ticks_per_minute: float) -> "SymbolMarket":
        """The market of a symbol: a function of its name, the seed and the mean rate."""
        rng = np.random.default_rng([seed, stable_int("market", symbol)])
        known = next((p for base, p in _KNOWN_PRICES.items() if symbol.startswith(base)), None)
        price = known or float(10 ** rng.uniform(-1, 3))
        price_digits = max(0, 5 - math.ceil(math.log10(price)))
        return cls(
            symbol=symbol,
            seed=seed,
            price=round(price, price_digits),
            # Busy and quiet symbols: a factor of about 4 either way.
            ticks_per_minute=ticks_per_minute * float(np.exp(rng.normal(0, 0.6))),
            sigma=float(rng.uniform(0.0005, 0.0012)),
            price_digits=price_digits,
            qty_digits=5 if price > 100 else 2,
            mean_qty=1_000.0 / price,
        )

    def minute(self, minute: int) -> MinuteTrades:
        """Trades the minute that begins at `minute` × 60 s, and moves the price on."""
        rng = np.random.default_rng([self.seed, stable_int("minute", self.symbol), minute])
        season = activity(minute)
        n = int(rng.poisson(self.ticks_per_minute * season))
        shock = self._shock(rng)
        jump = 0.0
        if rng.random() < _JUMPS_A_DAY / _MINUTES_A_DAY:
            jump = self.sigma * _JUMP_SIGMAS * float(rng.standard_normal())
        step = self.sigma * math.sqrt(self.variance_ratio * season) * shock + jump
        times = np.sort(rng.integers(0, MINUTE_MS, n)) + minute * MINUTE_MS
        # A bridge to the minute's end, and the bounce between bid and ask around it.
        share = (times - minute * MINUTE_MS) / MINUTE_MS
        wiggle = np.cumsum(rng.standard_normal(n)) * self.sigma * 0.15 / math.sqrt(max(1, n))
        buys = rng.random(n) < 0.5 + 0.1 * math.tanh(step / self.sigma)
        spread = np.where(buys, 0.5, -0.5) * self.sigma * 0.05
        tick = 10.0**-self.price_digits
        prices = np.rint(self.price * np.exp(step * share + wiggle + spread) / tick)
        lots = rng.lognormal(math.log(self.mean_qty) - 0.72, 1.2, n) * 10**self.qty_digits
        self._move(step, shock)
        return MinuteTrades(
            times.astype(np.int64),
            np.maximum(1, prices).astype(np.int64),
            np.maximum(1, np.rint(lots)).astype(np.int64),
            buys,
        )

    def bar(self, minute: int, minutes: int) -> Candle:
        """The bar of `minutes` from `minute` on, for history; moves the price on."""
        rng = np.random.default_rng([self.seed, stable_int("history", self.symbol), minute])
        path = [self.price]
        trades = 0
        for i in range(minutes):
            season = activity(minute + i)
            shock = self._shock(rng)
            step = self.sigma * math.sqrt(self.variance_ratio * season) * shock
            self._move(step, shock)
            path.append(self.price)
            trades += int(rng.poisson(self.ticks_per_minute * season))
        prices = np.round(path, self.price_digits)
        volume = round(trades * self.mean_qty * float(rng.lognormal(-0.02, 0.2)), self.qty_digits)
        # The extremes lie somewhat outside the minutes' ends.
        reach = self.sigma * 0.5 * np.abs(rng.standard_normal(2))
        high = round(float(prices.max() * math.exp(reach[0])), self.price_digits)
        low = round(float(prices.min() * math.exp(-reach[1])), self.price_digits)
        amount = volume * float(prices.mean())
        return Candle(float(prices[0]), high, low, float(prices[-1]), volume, amount, trades)

    def _shock(self, rng: np.random.Generator) -> float:
        scale = math.sqrt((_SHOCK_FREEDOM - 2) / _SHOCK_FREEDOM)
        return float(rng.standard_t(_SHOCK_FREEDOM)) * scale

    def _move(self, step: float, shock: float) -> None:
        # The floor keeps a price from sinking to zero ticks in a long run.
        self.price = max(self.price * math.exp(step), 100 * 10.0**-self.price_digits)
        grown = 1 - _ALPHA - _BETA + self.variance_ratio * (_ALPHA * shock * shock + _BETA)
        self.variance_ratio = min(grown, _MAX_VARIANCE_RATIO)


def activity(minute: int) -> float:
    """Relative activity at a minute since 1970, UTC: least at 4 h, most at 15 h, mean about 1."""
    hour = minute % _MINUTES_A_DAY / 60
    return 1.0 + 0.6 * math.cos((hour - 15.0) / 24 * 2 * math.pi)
