"""Bars in files: parquet, csv or JSON lines, columns named as the wire's fields."""

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_line, some_of
from ..wire.foreign import MS_FROM, MS_UNTIL
from ..wire.intervals import INTERVAL_MS
from ..wire.messages import Bar
from .calendar import Calendar

PRICES: Final = ("open", "high", "low", "close")
ENDINGS: Final = (".parquet", ".csv", ".jsonl")
IN_FOLDERS: Final = (".parquet", ".csv", ".csv.gz", ".jsonl")
"""Endings of the files that are taken for bars in a folder."""
NOTHING: Final = ["", "NA", "N/A", "NaN", "nan", "null", "None"]
"""What stands for no number in a csv file."""
UNREADABLE: Final = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    zlib.error,
    RecursionError,
    NotImplementedError,
    msgspec.DecodeError,
)
"""What the readers raise: a cut or damaged gzip has errors of its own, rows may be nested without
end, and pyarrow does not implement all that a parquet file may hold."""


class BarColumns(NamedTuple):
    """Bars of one symbol in the order of their open times: `open_times` (n,) in ms, UTC; `values`
    (n, 6) open, high, low, close, volume, amount."""

    open_times: NDArray[np.int64]
    values: NDArray[np.float64]


def read_columns(path: str | Path, interval: str) -> dict[str, BarColumns]:
    """What `read_bars` reads, under the same rules, without an object a bar."""
    path = Path(path)
    return {name: _checked(path, name, part, interval).columns for name, part in _parts(path, None)}


def joined(symbol: str, parts: Sequence[BarColumns]) -> BarColumns:
    """One symbol's bars of several files. InputError where they have a bar in common."""
    if len(parts) == 1:
        return parts[0]
    times = np.concatenate([part.open_times for part in parts])
    order = np.argsort(times, kind="stable")
    times = times[order]
    repeated = times[1:][np.diff(times) == 0]
    if len(repeated):
        raise InputError(f"bars: {symbol}: open_time {repeated[0]} stands in two files")
    return BarColumns(times, np.concatenate([part.values for part in parts])[order])


class Placed(NamedTuple):
    """Columns with the calendar's ordinals of their bars, and how many bars it left out."""

    columns: BarColumns
    places: NDArray[np.int64]
    outside: int


def placed(columns: BarColumns, calendar: Calendar) -> Placed:
    """The bars that lie in the calendar's intervals."""
    places = calendar.places(columns.open_times)
    inside = places >= 0
    kept = BarColumns(columns.open_times[inside], columns.values[inside])
    return Placed(kept, places[inside], int((~inside).sum()))


def in_sessions(bars: Sequence[Bar], calendar: Calendar) -> list[Bar]:
    """What `placed` keeps: the stream makes no bar outside the sessions, so none enters a
    context."""
    places = calendar.places(np.array([bar.open_time for bar in bars], np.int64))
    return [bar for bar, place in zip(bars, places.tolist(), strict=True) if place >= 0]


def read_bars(
    path: str | Path, interval: str, *, symbol: str | None = None
) -> dict[str, list[Bar]]:
    """The bars of a file, by symbol, in the order of their open times.

    Columns: `open_time` or `timestamp` (ms, UTC), open, high, low, close, volume; optionally
    amount (else volume × mean(O, H, L, C)), symbol (else the file's stem) and the wire's other
    fields. `symbol` reads that one alone. InputError names the column, the value and what was
    expected.
    """
    path = Path(path)
    return {name: _bars(path, name, part, interval) for name, part in _parts(path, symbol)}


def write_bars(path: str | Path, bars: Iterable[Bar]) -> None:
    """Writes bars by the file's ending (.parquet, .csv, .jsonl)."""
    write_rows(path, [msgspec.structs.asdict(bar) for bar in bars], list(Bar.__struct_fields__))


def write_rows(path: str | Path, rows: Sequence[dict[str, Any]], columns: list[str]) -> None:
    """Writes a table by the file's ending; InputError where the ending says nothing or the file
    cannot be written."""
    import pandas as pd

    path = Path(path)
    _check_name(path)
    if path.suffix == ".jsonl":
        with writing(path):
            path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        return
    frame = pd.DataFrame(list(rows), columns=columns)
    for column in ("first_trade_id", "last_trade_id", "prev_open_time"):
        if column in frame:
            frame[column] = pd.array([row[column] for row in rows], dtype="Int64")
    with writing(path):
        if path.suffix == ".parquet":
            frame.to_parquet(path, index=False)
        else:
            frame.to_csv(path, index=False)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tells of a full disk, a forbidden folder or a dangling link in one line."""
    try:
        yield
    except OSError as error:
        # The number alone: pyarrow and Python word the same reason differently.
        reason = os.strerror(error.errno) if error.errno else str(error)
        where = error.filename if isinstance(error.filename, str) else path
        raise InputError(f"{where}: cannot be written: {reason}") from error


def check_ending(path: str | Path) -> None:
    """InputError unless a table can be written to that name: nothing is computed in vain."""
    path = Path(path)
    _check_name(path)
    with writing(path):
        new = not path.exists()
        # A pipe's reader would take the first end for the last.
        if new or not (path.is_fifo() or path.is_char_device()):
            path.open("ab").close()
        if new:
            path.resolve().unlink()


def _check_name(path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise InputError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")
    with writing(path):
        folder = path.absolute().parent.is_dir()
    if not folder:
        raise InputError(f"{path}: expected an existing folder, {path.parent} is none")


def symbol_of(path: Path) -> str:
    """The symbol of a file that has no such column: its name without the ending."""
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _frame(path: Path) -> Any:
    import pandas as pd

    if not path.is_file():
        raise InputError(f"{path}: expected a bars file ({', '.join(ENDINGS)}), found none")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix in (".jsonl", ".json"):
            # Not pandas.read_json, which rounds the last digit of a float.
            decoder = msgspec.json.Decoder(dict[str, Any])
            return pd.DataFrame(decoder.decode_lines(path.read_bytes()))
        if path.name.endswith((".csv", ".csv.gz")):
            # A symbol may be called NA, which elsewhere is nothing.
            names = pd.read_csv(path, nrows=0).columns
            nothing = {name: [""] if name == "symbol" else NOTHING for name in names}
            return pd.read_csv(
                path, dtype={"symbol": str}, na_values=nothing, keep_default_na=False
            )
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from error
    raise InputError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")


def _parts(path: Path, symbol: str | None) -> Iterator[tuple[str, Any]]:
    """Each symbol's part of a file, or that of `symbol` alone."""
    frame = _frame(path)
    if "open_time" not in frame and "timestamp" in frame:
        frame = frame.rename(columns={"timestamp": "open_time"})
    missing = [c for c in ("open_time", *PRICES, "volume") if c not in frame]
    if missing:
        named = ", ".join(missing).replace("open_time", "open_time (or timestamp)")
        raise InputError(f"{path}: missing columns {named}; found {', '.join(map(str, frame))}")
    if "symbol" not in frame:
        frame["symbol"] = symbol_of(path)
    frame["symbol"] = _symbols(path, frame["symbol"])
    if symbol is not None:
        there = frame["symbol"].unique()
        frame = frame[frame["symbol"] == symbol]
    if not len(frame):
        wanted = "any bar" if symbol is None else f"bars of {symbol}"
        found = "none" if symbol is None else some_of(there)
        raise InputError(f"{path}: expected {wanted}, found {found}")
    for name, part in frame.groupby("symbol", sort=True):
        yield str(name), part


def _symbols(path: Path, column: Any) -> Any:
    """A column of symbols as text."""
    import pandas as pd

    empty = np.flatnonzero(column.isna())
    if len(empty):
        raise InputError(f"{path}: symbol: expected text, row {empty[0] + 1} has none")
    if not isinstance(column.dtype, pd.StringDtype) and column.dtype.kind == "O":
        for row, value in enumerate(column, 1):
            if pd.api.types.is_list_like(value):
                kind = "struct" if isinstance(value, dict) else "list"
                raise InputError(f"{path}: symbol: expected text, row {row} has a {kind}")
    try:
        return column.astype(str)
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: symbol: expected text: {error}") from error


class _Checked(NamedTuple):
    """Columns that hold what they must, and the rows of the file that they came from."""

    columns: BarColumns
    order: NDArray[np.int64]


def _checked(path: Path, symbol: str, part: Any, interval: str) -> _Checked:
    where = f"{path}: {symbol}"
    interval_ms = INTERVAL_MS[interval]
    times = _times(where, part["open_time"])
    values = np.column_stack([_numbers(where, part, name) for name in (*PRICES, "volume")])
    amount = (
        _numbers(where, part, "amount")
        if "amount" in part
        else values[:, 4] * values[:, :4].mean(1)
    )
    table = np.column_stack((values, amount))
    names = [*PRICES, "volume", "amount"]
    for bad, expected in (
        (~np.isfinite(table), "a finite number"),
        (table[:, :4] <= 0, "a price above 0"),
        (table < 0, "0 or more"),
    ):
        found = np.argwhere(bad)
        if len(found):
            row, column = found[0]
            raise InputError(
                f"{where}: {names[column]} at open_time {times[row]}: expected {expected}, got "
                f"{table[row, column]}"
            )
    order = np.argsort(times, kind="stable")
    times, table = times[order], table[order]
    off_grid = times[times % interval_ms != 0]
    if len(off_grid):
        raise InputError(
            f"{where}: open_time: expected multiples of {interval} in ms, got {off_grid[0]}"
        )
    repeated = times[1:][np.diff(times) == 0]
    if len(repeated):
        raise InputError(f"{where}: open_time {repeated[0]} stands in the file twice")
    wrong = np.argwhere(table[:, 1] < table[:, 2])
    if len(wrong):
        raise InputError(f"{where}: high below low at open_time {times[wrong[0, 0]]}")
    if "interval" in part and (part["interval"] != interval).any():
        found = part["interval"][part["interval"] != interval].iloc[0]
        raise InputError(f"{where}: interval: expected {interval}, got {found!r}")
    return _Checked(BarColumns(times, table), order)


def _bars(path: Path, symbol: str, part: Any, interval: str) -> list[Bar]:
    (times, table), order = _checked(path, symbol, part, interval)
    interval_ms = INTERVAL_MS[interval]
    more = _wire_columns(f"{path}: {symbol}", part, order)
    previous: list[int | None] = [None, *times[:-1].tolist()]
    return [
        Bar(
            symbol=symbol,
            interval=interval,
            open_time=open_time,
            close_time=open_time + interval_ms,
            open=row[0],
            high=row[1],
            low=row[2],
            close=row[3],
            volume=row[4],
            amount=row[5],
            prev_open_time=before,
            **{name: column[i] for name, column in more.items()},
        )
        for i, (open_time, row, before) in enumerate(
            zip(times.tolist(), table.tolist(), previous, strict=True)
        )
    ]


def _times(where: str, column: Any) -> NDArray[np.int64]:
    expected = f"{where}: open_time: expected integer milliseconds, UTC"
    if column.dtype.kind in "Mm":
        # Their integers would be milli-, micro- or nanoseconds, as the file happens to have it.
        raise InputError(f"{expected}, got {column.iloc[0]}")
    times = _numbers(where, column.to_frame("open_time"), "open_time")
    wrong = np.flatnonzero(~((times % 1 == 0) & (times >= MS_FROM) & (times < MS_UNTIL)))
    if len(wrong):
        raise InputError(f"{expected}, got {column.iloc[wrong[0]]}")
    return times.astype(np.int64)


def _numbers(where: str, part: Any, name: str) -> NDArray[np.float64]:
    """A column as doubles, NaN where there is nothing."""
    try:
        numbers: NDArray[np.float64] = part[name].to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: {name}: expected numbers: {error}") from error
    return numbers


def _wire_columns(where: str, part: Any, order: Any) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for name, kind, most, expected in (
        ("trades", int, 2**53, "a count"),
        ("revision", int, 2**53, "a count"),
        ("flat_run", int, 2**53, "a count"),
        ("synthetic", bool, 1, "true or false"),
        ("complete", bool, 1, "true or false"),
        ("history", bool, 1, "true or false"),
    ):
        if name not in part:
            continue
        values = part[name].to_numpy()[order].tolist()
        for value in values:
            # A remainder that is not 0 is a fraction, an infinity or a NaN.
            if not isinstance(value, int | float) or value % 1 or not 0 <= value <= most:
                raise InputError(f"{where}: {name}: expected {expected}, got {value!r}")
        columns[name] = [kind(value) for value in values]
    return columns
