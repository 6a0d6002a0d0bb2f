"""Seeded bars of several symbols for the tests of this room."""

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from kronos_stream.bars.calendar import AlwaysOpen
from kronos_stream.bars.tables import write_rows
from kronos_stream.evaluation.series import Series
from kronos_stream.wire.ids import stable_int
from kronos_stream.wire.messages import CHANNELS, ForecastSpec
from tests.engine.requests import spec as engine_spec
from tests.samples import START_MS, STEP_MS

CALENDAR = AlwaysOpen(STEP_MS)
SMALL = ["--lookback", "24", "--horizon", "4", "--paths", "6", "--seed", "7"]
"""Flags of a forecast that the tiny model's context holds."""


def spec(**changes: object) -> ForecastSpec:
    """Settings that the tiny model's context holds."""
    small = {"lookback": 24, "horizon": 4, "paths": 6, "join": "last_close"}
    return engine_spec(**(small | changes))


def values_of(n: int, seed: int = 5, sigma: float = 0.002) -> NDArray[np.float64]:
    """A walk of n bars (n, 6)."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, sigma, n + 1)))
    begin, end = close[:-1], close[1:]
    wick = np.exp(np.abs(rng.normal(0, sigma / 2, (2, n))))
    high, low = np.maximum(begin, end) * wick[0], np.minimum(begin, end) / wick[1]
    volume = rng.uniform(1, 9, n)
    return np.column_stack((begin, high, low, end, volume, volume * end))


def series_of(
    symbol: str = "AAA", n: int = 200, *, without: tuple[int, ...] = (), first: int = 0
) -> Series:
    """n bars from the bar number `first` on, but for those at the rows `without`."""
    kept = np.delete(np.arange(n), without)
    open_times = START_MS + STEP_MS * (first + kept)
    values = values_of(n, stable_int(symbol) % 1000)[kept]
    return Series(symbol, "5m", open_times, values, CALENDAR.places(open_times), 0)


def perturbed(series: Series, row: int) -> Series:
    """Other bars after `row`, the same up to it."""
    values = series.values.copy()
    values[row + 1 :] *= np.random.default_rng(1).uniform(0.5, 2.0, (len(values) - row - 1, 1))
    return series._replace(values=values)


def write_series(folder: Path, *many: Series) -> Path:
    """A folder with a parquet file a symbol."""
    folder.mkdir(exist_ok=True)
    for one in many:
        rows = [
            {"open_time": int(t)} | dict(zip(CHANNELS, row))
            for t, row in zip(one.open_times, one.values.tolist())
        ]
        write_rows(folder / f"{one.symbol}.parquet", rows, ["open_time", *CHANNELS])
    return folder


def replaced(settings: ForecastSpec, **changes: object) -> ForecastSpec:
    """The settings with some of them changed."""
    return msgspec.structs.replace(settings, **changes)
