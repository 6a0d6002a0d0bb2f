"""Forecasts and bars in words: the readable lines of the console and of `subscribe`."""

import math
from datetime import UTC, datetime
from typing import NamedTuple

from .wire.intervals import INTERVAL_MS
from .wire.messages import Bar, Forecast, Skipped


class Band(NamedTuple):
    """Close at the last step: the quantiles nearest to 10 %, 50 % and 90 %."""

    low: float
    median: float
    high: float
    share: float
    """Probability between low and high: 0.8 with the default levels."""


def band(forecast: Forecast) -> Band:
    """The band of the close at the end of the horizon."""
    levels = forecast.quantile_levels
    values = forecast.quantiles["close"][-1]
    low, middle, high = (
        min(range(len(levels)), key=lambda i: abs(levels[i] - wanted)) for wanted in (0.1, 0.5, 0.9)
    )
    return Band(values[low], values[middle], values[high], levels[high] - levels[low])


def price(value: float) -> str:
    """Six digits, in any market: 93,412.1, 1.23450, 0.0000123400."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = min(12, max(0, 5 - math.floor(math.log10(abs(value)))))
    return f"{value:,.{decimals}f}"


def utc(time_ms: int) -> str:
    """Minutes, UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def forecast_line(forecast: Forecast) -> str:
    """One forecast in one line: what was seen, and where the close stands at the end."""
    at_end = band(forecast)
    change = 100 * (at_end.median / forecast.last_close - 1) if forecast.last_close else 0.0
    steps = len(forecast.step_open_times)
    return (
        f"{utc(forecast.close_time)}  {forecast.symbol}  close {price(forecast.last_close)}  "
        f"in {steps} bars: median {price(at_end.median)} ({change:+.2f} %)  "
        f"{at_end.share:.0%} band {price(at_end.low)} to {price(at_end.high)}  "
        f"P(up) {forecast.p_up[-1]:.0%}"
    )


def bar_line(bar: Bar) -> str:
    """One bar in one line."""
    kind = "no trades" if bar.synthetic else f"{bar.trades} trades"
    return f"{utc(bar.close_time)}  {bar.symbol}  bar closed at {price(bar.close)}, {kind}"


def skipped_line(skipped: Skipped) -> str:
    """One forecast that was not made, in one line, with the time at which its bar closed."""
    detail = f": {skipped.detail}" if skipped.detail else ""
    when = utc(skipped.open_time + INTERVAL_MS[skipped.interval])
    return f"{when}  {skipped.symbol}  no forecast ({skipped.reason}{detail})"
