"""Frames and timestamps of pandas, checked, as arrays."""

from numbers import Number
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import InputError

PRICES: Final = ["open", "high", "low", "close"]
COLUMNS: Final = [*PRICES, "volume", "amount"]


def values_of(frame: pd.DataFrame, where: str) -> NDArray[np.float64]:
    """The bars of a frame (n, 6), channels in the order of COLUMNS: an amount that is missing is
    volume times the mean price, volume that is missing 0."""
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"{where}: expected a pandas DataFrame, got {type(frame).__name__}")
    if frame.columns.nlevels != 1:
        raise InputError(f"{where}: expected columns of one level, got {frame.columns.nlevels}")
    missing = [name for name in PRICES if name not in frame.columns]
    if missing:
        raise InputError(
            f"{where}: missing columns {missing}; expected {PRICES} and optionally volume, amount"
        )
    _refuse_columns(frame, where)
    try:
        prices = frame[PRICES].to_numpy(np.float64)
        volume = (
            frame["volume"].to_numpy(np.float64) if "volume" in frame else np.zeros(len(prices))
        )
        if "volume" not in frame:
            amount = np.zeros(len(prices))
        elif "amount" in frame:
            amount = frame["amount"].to_numpy(np.float64)
        else:
            amount = volume * prices.mean(1)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: expected numbers in {COLUMNS}: {error}") from error
    values = np.column_stack((prices, volume, amount))
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"{where}: {COLUMNS[column]} of row {row} is {values[row, column]}, expected a number"
        )
    return values


def time_features(stamps: pd.Series | pd.DatetimeIndex, where: str) -> NDArray[np.int64]:
    """Minute, hour, weekday (Monday 0), day, month of each timestamp as written: int64 (n, 5)."""
    try:
        _refuse_numbers(pd.Index(stamps), where)
        index = pd.DatetimeIndex(stamps)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: expected timestamps: {error}") from error
    if index.hasnans:
        raise InputError(f"{where}: holds a missing timestamp (NaT)")
    parts = (index.minute, index.hour, index.day_of_week, index.day, index.month)
    columns = [np.asarray(part, np.int64) for part in parts]
    return np.stack(columns, axis=-1)


def _refuse_numbers(stamps: pd.Index, where: str) -> None:
    """InputError where pandas would read numbers as nanoseconds."""
    dtype = _of_values(stamps.dtype)
    kind = str(dtype) if pd.api.types.is_numeric_dtype(dtype) else None
    if pd.api.types.is_object_dtype(dtype):
        # A NaN among timestamps is a missing one.
        numbers = (value for value in stamps if isinstance(value, Number) and value == value)
        kind = next((type(number).__name__ for number in numbers), None)
    if kind:
        raise InputError(
            f"{where}: expected timestamps, got {kind}; milliseconds are "
            f"pd.to_datetime(..., unit='ms')"
        )


def _of_values(dtype: Any) -> Any:
    """The dtype of a column's values, which a category has within."""
    return dtype.categories.dtype if isinstance(dtype, pd.CategoricalDtype) else dtype


def _refuse_columns(frame: pd.DataFrame, where: str) -> None:
    """InputError for a column that stands twice or holds times, which would turn into numbers."""
    used = PRICES if "volume" not in frame else [name for name in COLUMNS if name in frame]
    for name in used:
        dtypes = list(frame[[name]].dtypes)
        if len(dtypes) != 1:
            raise InputError(f"{where}: {name}: expected one column, got {len(dtypes)}")
        if _of_values(dtypes[0]).kind in "Mm":
            raise InputError(f"{where}: {name}: expected numbers, got {dtypes[0]}")
