"""Bars in files: parquet, csv or JSON lines, columns named as the wire's fields."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from ..errors import InputError
from ..wire.intervals import INTERVAL_MS
from ..wire.messages import Bar

PRICES: Final = ("open", "high", "low", "close")
ENDINGS: Final = (".parquet", ".csv", ".jsonl")


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
    frame = _frame(path)
    if "open_time" not in frame and "timestamp" in frame:
        frame = frame.rename(columns={"timestamp": "open_time"})
    missing = [c for c in ("open_time", *PRICES, "volume") if c not in frame]
    if missing:
        raise InputError(
            f"{path}: missing columns {', '.join(missing)}; found {', '.join(map(str, frame))}"
        )
    if "symbol" not in frame:
        frame["symbol"] = path.name.split(".")[0]
    frame["symbol"] = frame["symbol"].astype(str)
    if symbol is not None:
        frame = frame[frame["symbol"] == symbol]
    if not len(frame):
        wanted = "any bar" if symbol is None else f"bars of {symbol}"
        raise InputError(f"{path}: expected {wanted}, found none")
    return {
        str(name): _bars(path, str(name), part, interval)
        for name, part in frame.groupby("symbol", sort=True)
    }


def write_bars(path: str | Path, bars: Iterable[Bar]) -> None:
    """Writes bars by the file's ending (.parquet, .csv, .jsonl)."""
    write_rows(path, [msgspec.structs.asdict(bar) for bar in bars], list(Bar.__struct_fields__))


def write_rows(path: str | Path, rows: Sequence[dict[str, Any]], columns: list[str]) -> None:
    """Writes a table by the file's ending; InputError where the ending says nothing."""
    import pandas as pd

    path = Path(path)
    check_ending(path)
    if path.suffix == ".jsonl":
        path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        return
    frame = pd.DataFrame(list(rows), columns=columns)
    for column in ("first_trade_id", "last_trade_id", "prev_open_time"):
        if column in frame:
            frame[column] = pd.array([row[column] for row in rows], dtype="Int64")
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)


def check_ending(path: str | Path) -> None:
    """InputError unless a table can be written to that name."""
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise InputError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: expected an existing folder, {path.parent} is none")


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
            return pd.read_csv(path, dtype={"symbol": str}, float_precision="round_trip")
    except (ValueError, OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise InputError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    raise InputError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")


def _bars(path: Path, symbol: str, part: Any, interval: str) -> list[Bar]:
    where = f"{path}: {symbol}"
    interval_ms = INTERVAL_MS[interval]
    try:
        times = part["open_time"].to_numpy(np.int64)
        values = part[[*PRICES, "volume"]].to_numpy(np.float64)
        amount = (
            part["amount"].to_numpy(np.float64)
            if "amount" in part
            else values[:, 4] * values[:, :4].mean(1)
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: expected numbers: {error}") from error
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
    more = _wire_columns(part, order)
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


def _wire_columns(part: Any, order: Any) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for name, kind in (
        ("trades", int),
        ("revision", int),
        ("flat_run", int),
        ("synthetic", bool),
        ("complete", bool),
        ("history", bool),
    ):
        if name in part:
            columns[name] = [kind(value) for value in part[name].to_numpy()[order].tolist()]
    return columns
