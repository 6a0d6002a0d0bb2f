"""A ticks file to bars without a broker: golden counts of real ticks, the oracle for our own."""

import csv
import gzip
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from kronos_stream.bars.offline import aggregate_file, fold_file
from kronos_stream.bars.tables import read_bars
from kronos_stream.errors import InputError
from kronos_stream.settings import BarsSettings
from kronos_stream.wire.messages import Tick
from tests.oracle import Entry, truth
from tests.tick_sessions import STEP, session

TRADED_ONLY = BarsSettings(gaps="skip", edges="keep")
FIELDS = ("symbol", "price", "qty", "time", "trade_id")


def _ticks(*, quiet: Iterable[int] = (), seed: int = 7) -> list[Tick]:
    """Twelve intervals with duplicates and late ones; nothing happens in the `quiet` ones."""
    busy = [i for i in range(12) if i not in set(quiet)]
    records = [r for i in busy for r in session(range(i, i + 1), seed=seed)]
    return [r for r in records if isinstance(r, Tick)]


def _write(path: Path, ticks: Iterable[Tick]) -> Path:
    if path.suffix == ".jsonl":
        path.write_bytes(b"".join(msgspec.json.encode(t) + b"\n" for t in ticks))
        return path
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        writer.writerows([getattr(t, name) for name in FIELDS] for t in ticks)
    return path


def _log(ticks: Iterable[Tick]) -> list[Entry]:
    return [
        Entry(i, t.time, t.time, t.symbol, str(t.price), str(t.qty), t.trade_id)
        for i, t in enumerate(ticks, 1)
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("edges", ["keep", "drop"])
@pytest.mark.parametrize("gaps", ["fill", "skip"])
def test_a_file_gives_what_the_oracle_says(
    tmp_path: Path, gaps: str, edges: str, seed: int
) -> None:
    ticks = _ticks(quiet=(3, 4, 8), seed=seed)
    settings = BarsSettings(gaps=gaps, edges=edges)  # type: ignore[arg-type]
    bars, summary = fold_file(_write(tmp_path / "ticks.csv", ticks), settings)
    expected = truth(_log(ticks), gaps=gaps, edges=edges, to_the_end=True)
    assert bars == expected.bars
    assert summary.ticks == len(ticks)
    assert summary.bars == len(bars) > 12
    assert summary.counters["late"] == len(expected.late) > 0
    assert summary.counters["duplicate"] > 0
    assert any(bar.synthetic for bar in bars) == (gaps == "fill")
    assert all(bar.complete for bar in bars) == (edges == "drop")


@pytest.mark.parametrize("grace_ms", [0, 2 * STEP])
@pytest.mark.parametrize("interval", ["1m", "15m"])
def test_other_intervals_and_graces(tmp_path: Path, interval: str, grace_ms: int) -> None:
    ticks = _ticks(quiet=(5,))
    settings = BarsSettings(interval=interval, grace_ms=grace_ms, edges="keep")  # type: ignore[arg-type]
    bars, _ = fold_file(_write(tmp_path / "ticks.csv", ticks), settings)
    expected = truth(
        _log(ticks), interval=interval, grace_ms=grace_ms, edges="keep", to_the_end=True
    )
    assert bars == expected.bars


@pytest.mark.parametrize("name", ["ticks.csv.gz", "ticks.jsonl"])
def test_the_form_of_the_file_does_not_matter(tmp_path: Path, name: str) -> None:
    ticks = _ticks()
    plain = fold_file(_write(tmp_path / "ticks.csv", ticks), TRADED_ONLY)
    assert fold_file(_write(tmp_path / name, ticks), TRADED_ONLY) == plain


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_bars_are_written_by_the_ending(tmp_path: Path, ending: str) -> None:
    ticks = _write(tmp_path / "ticks.csv", _ticks())
    out = tmp_path / f"bars{ending}"
    summary = aggregate_file(ticks, out, TRADED_ONLY)
    bars, expected = fold_file(ticks, TRADED_ONLY)
    assert summary == expected
    read = [bar for part in read_bars(out, "5m").values() for bar in part]
    ids = {"first_trade_id": None, "last_trade_id": None}
    by_symbol = sorted(bars, key=lambda bar: (bar.symbol, bar.open_time))
    assert read == [msgspec.structs.replace(bar, **ids) for bar in by_symbol]


def test_a_tick_that_cannot_be_used_is_told_by_its_row(tmp_path: Path) -> None:
    good, bad = _ticks()[:2]
    for change, told in (
        ({"price": "0.123456789"}, "price: expected at most 8 decimals"),
        ({"qty": "-1"}, "qty: expected above 0"),
        ({"time": 1_735_689_600}, "time: expected milliseconds, got 1735689600 .seconds."),
        ({"symbol": "B T C"}, "symbol: expected 1 to 64 printable"),
    ):
        ticks = [good, msgspec.structs.replace(bad, **change)]
        path = _write(tmp_path / "ticks.csv", ticks)
        with pytest.raises(InputError, match=rf"ticks\.csv: row 2: {told}"):
            fold_file(path, TRADED_ONLY)


def test_the_name_of_the_table_is_checked_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bars\.txt: expected a name that ends in"):
        aggregate_file(tmp_path / "no_such_ticks.csv", tmp_path / "bars.txt", TRADED_ONLY)


def test_a_file_without_a_tick_gives_no_bar(tmp_path: Path) -> None:
    bars, summary = fold_file(_write(tmp_path / "ticks.csv", []), TRADED_ONLY)
    assert (bars, summary.ticks, summary.bars) == ([], 0, 0)


def test_the_golden_bars_of_real_ticks_match_exactly(shared: Path, tmp_path: Path) -> None:
    golden = pd.read_parquet(shared / "golden" / "XRPETH_5m.parquet")
    out = tmp_path / "XRPETH.parquet"
    summary = aggregate_file(shared / "data" / "ticks" / "XRPETH.csv.gz", out, TRADED_ONLY)
    assert summary.bars == len(golden) == 706
    time = "timestamp" if "timestamp" in golden else "open_time"
    made = pd.read_parquet(out)
    assert made["open_time"].tolist() == golden[time].tolist()
    for column in ("open", "high", "low", "close", "volume"):
        assert made[column].tolist() == golden[column].tolist(), column


def test_the_intervals_of_real_ticks(shared: Path) -> None:
    ticks = shared / "data" / "ticks" / "BTCUSDT_USDM_20200222.csv.gz"
    bars, summary = fold_file(ticks, TRADED_ONLY)
    assert (summary.ticks, summary.bars, len(bars)) == (9_999, 26, 26)
    assert not bars[0].complete
    assert not bars[-1].complete
