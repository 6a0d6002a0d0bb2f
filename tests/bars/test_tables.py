"""Bars in files: what is written is read back, and what is wrong is told by file and column."""

import gzip
import math
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kronos_stream.bars.tables import (
    ENDINGS,
    check_ending,
    read_bars,
    read_columns,
    write_bars,
    write_rows,
)
from kronos_stream.errors import InputError
from kronos_stream.wire.messages import Bar
from tests.samples import START_MS, STEP_MS, bar

GOOD = {
    "open_time": [START_MS, START_MS + STEP_MS],
    "open": [100.0, 101.0],
    "high": [102.0, 103.0],
    "low": [99.0, 100.0],
    "close": [101.0, 102.0],
    "volume": [5.0, 6.0],
}


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes GOOD with changed columns (None: without it)."""

    def write(name: str = "AAA.parquet", **changes: list[Any] | None) -> Path:
        columns = {k: v for k, v in (GOOD | changes).items() if v is not None}
        frame, path = pd.DataFrame(columns), tmp_path / name
        if path.suffix == ".parquet":
            frame.to_parquet(path, index=False)
        elif path.suffix == ".jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_csv(path, index=False)
        return path

    return write


def _series() -> list[Bar]:
    """Doubles whose shortest form is long, a flat bar, an incomplete one and none traded by id."""
    first = bar("AAA", 0, open=0.1 + 0.2, amount=1 / 3, first_trade_id=2**62 + 1, last_trade_id=9)
    flat = bar("AAA", 1, synthetic=True, flat_run=1, trades=0, volume=0.0, amount=0.0)
    cut = bar("AAA", 2, complete=False, low=5e-7, revision=1, history=True)
    return [first, flat, cut]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read_back_exactly(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"bars{ending}"
    other = bar("00700", 3)
    write_bars(path, [*_series(), other])
    read = read_bars(path, "5m")
    assert list(read) == ["00700", "AAA"]
    names = [f for f in Bar.__struct_fields__ if "trade_id" not in f and f != "prev_open_time"]
    for found, written in zip([*read["AAA"], *read["00700"]], [*_series(), other], strict=True):
        assert [getattr(found, n) for n in names] == [getattr(written, n) for n in names]
    assert [b.prev_open_time for b in read["AAA"]] == [None, START_MS, START_MS + STEP_MS]


def test_columns_are_those_of_the_bars(tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    write_bars(path, [*_series()[::-1], bar("00700", 3)])
    columns, bars = read_columns(path, "5m"), read_bars(path, "5m")
    assert list(columns) == list(bars)
    for symbol, (open_times, values) in columns.items():
        assert open_times.tolist() == [b.open_time for b in bars[symbol]]
        assert values.tolist() == [
            [b.open, b.high, b.low, b.close, b.volume, b.amount] for b in bars[symbol]
        ]


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_columns_are_the_wires_fields_and_ids_stay_integers(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"bars{ending}"
    write_bars(path, _series())
    frame = (
        pd.read_parquet(path)
        if ending == ".parquet"
        else pd.read_csv(path, dtype={"first_trade_id": "Int64"})
    )
    assert list(frame) == list(Bar.__struct_fields__)
    assert frame["first_trade_id"].iloc[0] == 2**62 + 1
    assert frame["first_trade_id"].isna().tolist() == [False, True, True]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_last_digit_is_kept(tmp_path: Path, ending: str) -> None:
    rng = random.Random(11)
    volumes = [rng.random() * 10 ** rng.randrange(-8, 12) for _ in range(500)]
    path = tmp_path / f"AAA{ending}"
    write_bars(path, [bar("AAA", i, volume=volume) for i, volume in enumerate(volumes)])
    assert [b.volume for b in read_bars(path, "5m")["AAA"]] == volumes


def test_no_bars_are_a_table_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    write_bars(path, [])
    assert path.read_text().strip() == ",".join(Bar.__struct_fields__)
    with pytest.raises(InputError, match=r"bars\.csv: expected any bar, found none"):
        read_bars(path, "5m")


@pytest.mark.parametrize("name", ["AAA.parquet", "AAA.csv", "AAA.csv.gz", "AAA.jsonl"])
def test_a_foreign_table_needs_six_columns(table: Callable[..., Path], name: str) -> None:
    (read,) = read_bars(table(name), "5m").values()
    assert [b.symbol for b in read] == ["AAA", "AAA"]
    assert [b.close_time for b in read] == [START_MS + STEP_MS, START_MS + 2 * STEP_MS]
    assert [b.amount for b in read] == [5.0 * 100.5, 6.0 * 101.5]
    assert all(b.complete and not b.synthetic for b in read)


def test_timestamp_is_another_name_of_the_open_time(table: Callable[..., Path]) -> None:
    path = table(open_time=None, timestamp=GOOD["open_time"], amount=[1.0, 2.0])
    assert [(b.open_time, b.amount) for b in read_bars(path, "5m")["AAA"]] == [
        (START_MS, 1.0),
        (START_MS + STEP_MS, 2.0),
    ]


def test_rows_are_put_in_the_order_of_time_with_all_their_columns(
    table: Callable[..., Path],
) -> None:
    times = [START_MS + 5 * STEP_MS, START_MS]
    read = read_bars(table(open_time=times, trades=[2, 1], synthetic=[True, False]), "5m")["AAA"]
    assert [b.open_time for b in read] == sorted(times)
    assert [(b.close, b.trades, b.synthetic) for b in read] == [(102.0, 1, False), (101.0, 2, True)]
    assert [b.prev_open_time for b in read] == [None, START_MS]


def test_one_symbol_of_a_file_is_read_alone(table: Callable[..., Path]) -> None:
    path = table("many.csv", symbol=["AAA", "BBB"], open=[float("nan"), 101.0])
    assert list(read_bars(path, "5m", symbol="BBB")) == ["BBB"]
    with pytest.raises(InputError, match=r"many\.csv: expected bars of CCC, found AAA, BBB"):
        read_bars(path, "5m", symbol="CCC")


def test_symbols_may_have_dots_or_look_like_nothing(table: Callable[..., Path]) -> None:
    for name in ("BRK.B.parquet", "BRK.B.csv", "BRK.B.csv.gz"):
        assert list(read_bars(table(name), "5m")) == ["BRK.B"]
    assert list(read_bars(table("some.csv", symbol=["NA", "null"]), "5m")) == ["NA", "null"]
    with pytest.raises(InputError, match="symbol: expected text, row 2 has none"):
        read_bars(table("none.csv", symbol=["A", None]), "5m")


SECOND = START_MS + STEP_MS
NAN = math.nan


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"volume": None, "open": None}, "missing columns open, volume; found open_time, high"),
        ({"open_time": None}, "missing columns open_time"),
        ({"close": [1.0, NAN]}, f"AAA: close at open_time {SECOND}: expected a finite number"),
        ({"volume": [NAN, 1.0]}, f"AAA: volume at open_time {START_MS}: expected a finite"),
        ({"amount": [1.0, math.inf]}, f"AAA: amount at open_time {SECOND}: expected a finite"),
        ({"low": [0.0, 1.0]}, f"AAA: low at open_time {START_MS}: expected a price above 0"),
        ({"volume": [1.0, -2.0]}, f"volume at open_time {SECOND}: expected 0 or more, got -2.0"),
        ({"high": [98.0, 103.0]}, f"AAA: high below low at open_time {START_MS}"),
        ({"open": ["100", "dear"]}, "AAA: open: expected numbers: .*dear"),
        ({"open_time": [START_MS] * 2}, f"AAA: open_time {START_MS} stands in the file twice"),
        ({"open_time": [START_MS, START_MS + 1]}, f"expected multiples of 5m .* {START_MS + 1}"),
        ({"symbol": ["AAA", None]}, "symbol: expected text, row 2 has none"),
        ({"interval": ["5m", "1m"]}, "AAA: interval: expected 5m, got '1m'"),
        ({"trades": [1.0, NAN]}, "AAA: trades: expected a count, got nan"),
        ({"trades": [1.0, 2.5]}, r"AAA: trades: expected a count, got 2\.5"),
        ({"synthetic": ["no", "yes"]}, "AAA: synthetic: expected true or false, got 'no'"),
    ],
)
@pytest.mark.parametrize("name", ["AAA.parquet", "AAA.csv"])
def test_what_is_wrong_is_told_by_file_column_and_value(
    table: Callable[..., Path], name: str, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=f"^.*{re.escape(name)}: .*{told}"):
        read_bars(table(name, **changes), "5m")


@pytest.mark.parametrize(
    "times",
    [
        [t // 1000 - t // 1000 % STEP_MS for t in (START_MS, START_MS + 10**9)],
        [t * 1000 for t in (START_MS, SECOND)],
        [t * 1_000_000 for t in (START_MS, SECOND)],
        list(pd.to_datetime([START_MS, SECOND], unit="ms", utc=True)),
        [float(START_MS), NAN],
        [float(START_MS), SECOND + 0.5],
    ],
    ids=["seconds", "microseconds", "nanoseconds", "datetimes", "nan", "fraction"],
)
def test_times_that_are_no_milliseconds_are_told(
    table: Callable[..., Path], times: list[Any]
) -> None:
    with pytest.raises(InputError, match=r"AAA\.parquet: AAA: open_time: expected integer milli"):
        read_bars(table(open_time=times), "5m")


def _row(**raw: str) -> str:
    """A row of JSON lines whose fields are text as it shall stand."""
    good = {name: str(column[0]) for name, column in GOOD.items()}
    return "{" + ",".join(f'"{name}":{text}' for name, text in (good | raw).items()) + "}\n"


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"close": "[" * 100_000 + "]" * 100_000}, "cannot be read: maximum recursion depth"),
        ({"close": "1" + "0" * 400}, "AAA: close: expected numbers: int too large"),
        ({"open_time": "1" + "0" * 400}, "AAA: open_time: expected numbers: int too large"),
        ({"symbol": '["AAA"]'}, "symbol: expected text, row 1 has a list"),
        ({"symbol": '{"name":"AAA"}'}, "symbol: expected text, row 1 has a struct"),
    ],
    ids=["nested deep", "price past a double", "time past a double", "list", "struct"],
)
def test_json_that_is_no_row_is_told(tmp_path: Path, raw: dict[str, str], told: str) -> None:
    path = tmp_path / "AAA.jsonl"
    path.write_text(_row(**raw))
    with pytest.raises(InputError, match=rf"^[^\n]*AAA\.jsonl: {told}[^\n]*$"):
        read_bars(path, "5m")


@pytest.mark.parametrize(
    ("symbols", "told"),
    [
        (pa.array([["A"], ["B"]]), "symbol: expected text, row 1 has a list"),
        (pa.array([{"name": "A"}, {"name": "B"}]), "symbol: expected text, row 1 has a struct"),
        (pa.array([b"A", b"\xff"]), "symbol: expected text: 'utf-8' codec"),
    ],
    ids=["lists", "structs", "bytes"],
)
def test_parquet_symbols_that_are_no_text_are_told(
    tmp_path: Path, symbols: pa.Array, told: str
) -> None:
    path = tmp_path / "AAA.parquet"
    pq.write_table(pa.table(GOOD | {"symbol": symbols}), path)
    with pytest.raises(InputError, match=rf"AAA\.parquet: {told}"):
        read_bars(path, "5m")


def test_a_parquet_type_that_pandas_cannot_name_is_told(tmp_path: Path) -> None:
    path = tmp_path / "AAA.parquet"
    lists = pd.Series([["A"], ["B"]], dtype=pd.ArrowDtype(pa.list_(pa.string())))
    pd.DataFrame(GOOD | {"symbol": lists}).to_parquet(path, index=False)
    with pytest.raises(InputError, match=r"AAA\.parquet: (cannot be read|symbol: expected text)"):
        read_bars(path, "5m")


def test_a_gzip_that_is_cut_or_damaged_is_told(table: Callable[..., Path], tmp_path: Path) -> None:
    whole = gzip.compress(table("AAA.csv").read_bytes(), mtime=0)
    path = tmp_path / "AAA.csv.gz"
    # What follows the header of ten bytes is no deflate block in the last of them.
    for content in (whole[:12], whole[: len(whole) // 2], whole[:-1], whole[:10] + b"\xff" * 50):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"^[^\n]*AAA\.csv\.gz: cannot be read: [^\n]*$"):
            read_bars(path, "5m")


def test_a_folder_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "bars.csv").mkdir()
    with pytest.raises(InputError, match=r"bars\.csv: cannot be written: Is a directory"):
        check_ending(tmp_path / "bars.csv")


def test_asking_whether_a_file_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    new, link, pipe, kept = (tmp_path / f"{name}.csv" for name in ("new", "link", "pipe", "kept"))
    link.symlink_to(tmp_path / "target.csv")
    os.mkfifo(pipe)
    kept.write_text("kept")
    before = sorted(tmp_path.iterdir())
    for path in (new, link, pipe, kept):
        check_ending(path)
    assert sorted(tmp_path.iterdir()) == before
    assert kept.read_text() == "kept"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, ending: str) -> None:
    file, full, dangling, folder = (tmp_path / f"{name}{ending}" for name in "abcd")
    file.touch()
    full.symlink_to("/dev/full")
    dangling.symlink_to(tmp_path / "nowhere" / "bars")
    folder.mkdir()
    with pytest.raises(InputError, match=r"expected an existing folder, .* is none"):
        write_bars(file / f"bars{ending}", _series())
    for path, reason in (
        (full, "No space left on device"),
        (dangling, "No such file or directory"),
        (folder, "Is a directory"),
    ):
        told = f"^{re.escape(str(path))}: cannot be written: {reason}$"
        with pytest.raises(InputError, match=told):
            write_bars(path, _series())
        with pytest.raises(InputError, match=told):
            write_rows(path, [{"symbol": "AAA"}], ["symbol"])


def test_files_that_are_no_tables_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: expected a bars file .*, found none"):
        read_bars(tmp_path / "none.csv", "5m")
    for name in ("bars.txt", "bars.parquet", "bars.jsonl", "bars.csv.gz"):
        (tmp_path / name).write_bytes(b"\x00not a table\xff")
        with pytest.raises(InputError, match=re.escape(name)):
            read_bars(tmp_path / name, "5m")
    with pytest.raises(InputError, match=r"bars\.xlsx: expected a name that ends in \.parquet"):
        write_bars(tmp_path / "bars.xlsx", [])
    with pytest.raises(InputError, match="expected an existing folder"):
        write_bars(tmp_path / "nowhere" / "bars.csv", [])
