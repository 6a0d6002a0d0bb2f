"""Ticks in files: csv (or csv.gz) with a header, or JSON lines, read in columnar batches.

Columns: `time` or `ts_ms` (ms, UTC), symbol, price, qty, optionally trade_id and side. Prices and
quantities that are text stay text, so that they are exact.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec

from ..errors import InputError, first_line

BLOCK_BYTES: Final = 8 << 20
_LINES: Final = 20_000


class TickBatch(NamedTuple):
    """Columns of equal length, in the order of the file."""

    symbol: list[str]
    price: list[str | int | float]
    qty: list[str | int | float]
    time: list[int]
    trade_id: list[int | None]
    side: list[str | None]


_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What msgpack and other languages' readers can hold."""


class _Line(msgspec.Struct):
    symbol: str
    price: str | _Int | float
    qty: str | _Int | float
    time: _Int | None = None
    ts_ms: _Int | None = None
    trade_id: _Int | None = None
    side: str | None = None


def read_ticks(path: str | Path) -> Iterator[TickBatch]:
    """Batches of a ticks file; InputError names the file, the line or column, and what was
    expected."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a ticks file (.csv, .csv.gz or .jsonl), found none")
    if path.name.endswith((".csv", ".csv.gz")):
        yield from _csv(path)
    elif path.name.endswith((".jsonl", ".json", ".jsonl.gz")):
        yield from _json_lines(path)
    else:
        raise InputError(f"{path}: expected a name that ends in .csv, .csv.gz or .jsonl")


def _csv(path: Path) -> Iterator[TickBatch]:
    import pyarrow as pa
    from pyarrow import csv

    names = _header(path)
    times = [name for name in ("time", "ts_ms") if name in names]
    missing = [name for name in ("symbol", "price", "qty") if name not in names]
    if missing or not times:
        needed = [*missing, *([] if times else ["time (or ts_ms)"])]
        raise InputError(f"{path}: missing columns {', '.join(needed)}; found {', '.join(names)}")
    types = {
        "symbol": pa.string(),
        "price": pa.string(),
        "qty": pa.string(),
        times[0]: pa.int64(),
        "trade_id": pa.int64(),
        "side": pa.string(),
    }
    wanted = [name for name in types if name in names]
    convert = csv.ConvertOptions(column_types=types, include_columns=wanted)
    row = 1
    try:
        with csv.open_csv(
            path,
            # One thread: only then do its errors name the row.
            csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            convert_options=convert,
        ) as reader:
            for batch in reader:
                columns = {name: batch.column(name).to_pylist() for name in wanted}
                if None in columns[times[0]]:
                    row += 1 + columns[times[0]].index(None)
                    raise InputError(f"{path}: row {row}: {times[0]}: expected ms, got nothing")
                row += batch.num_rows
                empty = [None] * batch.num_rows
                yield TickBatch(
                    columns["symbol"],
                    columns["price"],
                    columns["qty"],
                    columns[times[0]],
                    columns.get("trade_id", empty),
                    columns.get("side", empty),
                )
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: {first_line(error)}") from error


def _header(path: Path) -> list[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            return [name.strip('"') for name in file.readline().strip().split(",")]
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a csv file: {error}") from error


def _json_lines(path: Path) -> Iterator[TickBatch]:
    decoder = msgspec.json.Decoder(_Line)
    opened = gzip.open if path.suffix == ".gz" else open
    batch = TickBatch([], [], [], [], [], [])
    with opened(path, "rb") as file:
        for number, text in _numbered(path, file):
            if not text.strip():
                continue
            try:
                line = decoder.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InputError(f"{path}: line {number}: {error}") from error
            time = line.ts_ms if line.time is None else line.time
            if time is None:
                raise InputError(f"{path}: line {number}: missing required field `time` (or ts_ms)")
            batch.symbol.append(line.symbol)
            batch.price.append(line.price)
            batch.qty.append(line.qty)
            batch.time.append(time)
            batch.trade_id.append(line.trade_id)
            batch.side.append(line.side)
            if len(batch.symbol) == _LINES:
                yield batch
                batch = TickBatch([], [], [], [], [], [])
    if batch.symbol:
        yield batch


def _numbered(path: Path, lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    try:
        yield from enumerate(lines, 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
