"""Files of ticks: the columns that come out, and errors that say where."""

import gzip
from pathlib import Path

import pytest

from kronos_stream.errors import InputError
from kronos_stream.wire.foreign import TickDecoder
from kronos_stream.wire.tick_files import TickBatch, read_ticks

T = 1_700_000_000_000
HEADER = b"time,symbol,price,qty,trade_id,side\n"
ROW = b"1700000000000,A,1.10,2,7,buy\n"
LINE = b'{"symbol":"A","price":"1.10","qty":2,"time":1700000000000}\n'


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    "content",
    [
        HEADER + ROW,
        b"\xef\xbb\xbf" + HEADER + ROW,
        HEADER.replace(b"time", b"ts_ms") + ROW,
        b'"time","symbol","price","qty","trade_id","side"\r\n' + ROW,
        b"more," + HEADER + b"x," + ROW,
    ],
    ids=["plain", "byte order mark", "ts_ms", "quoted", "more columns"],
)
def test_csv(tmp_path: Path, name: str, content: bytes) -> None:
    batches = list(read_ticks(write(tmp_path, name, content)))
    assert batches == [TickBatch(["A"], ["1.10"], ["2"], [T], [7], ["buy"])]


def test_csv_without_optional_columns_or_rows(tmp_path: Path) -> None:
    header = b"qty,price,symbol,time\n"
    rows = header + b"2,1.10,A,1700000000000\n"
    (batch,) = read_ticks(write(tmp_path, "a.csv", rows))
    assert batch == TickBatch(["A"], ["1.10"], ["2"], [T], [None], [None])
    assert list(read_ticks(write(tmp_path, "b.csv", header))) == []


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    more = LINE.replace(b"}", b',"trade_id":5,"side":"sell","later":1}')
    (batch,) = read_ticks(write(tmp_path, name, LINE + b"\n" + more.replace(b"time", b"ts_ms")))
    assert batch == TickBatch(
        ["A", "A"], ["1.10", "1.10"], [2, 2], [T, T], [None, 5], [None, "sell"]
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", HEADER + ROW + b"x,A,1,1,,\n", "(?i)row #?3.*'x'"),
        ("a.csv", HEADER + ROW + b"1,A,1\n", "(?i)row #?3.*Expected 6 columns"),
        ("a.csv", HEADER + ROW + b",A,1,1,,\n", "(?i)row #?3: time"),
        ("a.csv.gz", HEADER + ROW + b"1,A,1,1,zz,\n", "(?i)row #?3.*'zz'"),
        ("a.csv", b"time,price\n", "missing columns symbol, qty"),
        ("a.csv", b"time, symbol, price, qty\n", "missing columns symbol, price, qty"),
        ("a.csv", b"", "missing columns"),
        ("a.csv", b"\xff\xfe\n", "not a csv file"),
        ("a.jsonl", LINE + b"\n{", "line 3"),
        ("a.jsonl", LINE + b'{"symbol":"A"}', "line 2.*price"),
        ("a.jsonl", LINE + LINE.replace(b"time", b"at"), "line 2: missing required field `time`"),
        ("a.jsonl", LINE.replace(b"2", b"2" * 20, 1), "line 1: .*qty"),
        ("a.jsonl", LINE.replace(b"A", b"\xff"), "line 1"),
        ("a.jsonl", LINE + b'{"x":' * 5000, "line 2"),
        ("a.txt", LINE, r"\.csv, \.csv\.gz or \.jsonl"),
    ],
)
def test_bad_content_names_the_file_and_the_line(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        list(read_ticks(write(tmp_path, name, content)))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv.gz", HEADER + ROW * 5000), ("a.jsonl.gz", LINE * 5000)]
)
def test_cut_and_uncompressed_archives_name_the_file(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    packed = gzip.compress(content)
    for broken in (packed[: len(packed) // 2], content):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=name):
            list(read_ticks(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: expected a ticks file"):
        list(read_ticks(tmp_path / "none.csv"))


def test_long_json_lines_come_in_batches_and_in_order(tmp_path: Path) -> None:
    lines = b"".join(LINE.replace(b"}", b',"trade_id":%d}' % i) for i in range(45_000))
    batches = list(read_ticks(write(tmp_path, "a.jsonl", lines)))
    assert len(batches) > 1
    assert [i for batch in batches for i in batch.trade_id] == list(range(45_000))


def test_a_real_file(shared: Path) -> None:
    decoder = TickDecoder()
    batches = list(read_ticks(shared / "data" / "ticks" / "ETHUSDT_SPOT.csv.gz"))
    trades = [decoder.trade(*row) for b in batches for row in zip(b[0], b[3], b[1], b[2], b[4])]
    assert len(trades) == 14_515
    assert {trade.symbol for trade in trades} == {"ETHUSDT_SPOT"}
    assert {side for batch in batches for side in batch.side} == {"buy", "sell"}
