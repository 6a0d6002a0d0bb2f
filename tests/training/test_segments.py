"""From files to segments."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos_stream.bars.calendar import AlwaysOpen, calendar_of
from kronos_stream.errors import InputError
from kronos_stream.training.segments import read_bank
from kronos_stream.training.settings import Cleaning
from tests.samples import START_MS, STEP_MS
from tests.training.markets import bank_of, frame, write

ALWAYS = AlwaysOpen(STEP_MS)


def test_symbols_and_gaps_are_apart(tmp_path: Path) -> None:
    holed = frame(100, seed=1).drop(index=50)
    bank = bank_of(write(tmp_path / "bars", AAA=frame(80), BBB=holed))
    assert bank.symbols == ["AAA", "BBB", "BBB"]
    assert bank.spans.tolist() == [[0, 80], [80, 130], [130, 179]]
    for start, end in bank.spans:
        assert (np.diff(bank.open_times[start:end]) == STEP_MS).all()
    expected = frame(80)
    np.testing.assert_array_equal(bank.values[:80, 3], expected["close"].to_numpy(np.float32))
    amount = expected["volume"] * expected[["open", "high", "low", "close"]].mean(axis=1)
    np.testing.assert_allclose(bank.values[:80, 5], amount, rtol=1e-6)


def test_the_time_of_all_bars_is_known_and_tells_a_bank_from_others(tmp_path: Path) -> None:
    whole = frame(80)
    cut = bank_of(write(tmp_path / "cut", AAA=whole, BBB=frame(20, start=START_MS - 20 * STEP_MS)))
    assert cut.symbols == ["AAA"]
    np.testing.assert_array_equal(cut.times, START_MS + STEP_MS * np.arange(-20, 80))
    np.testing.assert_array_equal(cut.time_places, ALWAYS.places(cut.times))
    alone = bank_of(write(tmp_path / "alone", AAA=whole))
    np.testing.assert_array_equal(cut.values, alone.values)
    assert cut.digest() != alone.digest() == bank_of(tmp_path / "alone").digest()


def test_time_features_are_those_of_each_row(tmp_path: Path) -> None:
    late = frame(90, seed=1, start=int(frame(1)["open_time"][0]) + 7 * STEP_MS)
    bank = bank_of(write(tmp_path / "bars", AAA=frame(80), BBB=late))
    np.testing.assert_array_equal(bank.stamps, ALWAYS.stamps(bank.open_times))


def test_a_symbol_may_come_in_several_files(tmp_path: Path) -> None:
    whole = frame(80).assign(symbol="AAA")
    folder = write(tmp_path / "bars", later=whole[40:], earlier=whole[:40])
    assert bank_of(folder).spans.tolist() == [[0, 80]]
    write(folder, again=whole[:3])
    with pytest.raises(InputError, match=r"AAA: open_time .* stands in two files"):
        bank_of(folder)


def test_csv_beside_parquet(tmp_path: Path) -> None:
    frame(50).to_csv(tmp_path / "AAA.csv", index=False)
    frame(50, seed=1).to_parquet(tmp_path / "BBB.parquet", index=False)
    assert bank_of(tmp_path).symbols == ["AAA", "BBB"]


def test_a_night_is_no_gap_and_the_exchanges_clock_is_read(tmp_path: Path) -> None:
    pytest.importorskip("exchange_calendars")
    calendar = calendar_of("XNYS", STEP_MS)
    sessions = pd.date_range("2024-01-02 14:30", "2024-01-02 21:00", freq="5min", tz="UTC")
    days = sessions.append(sessions + pd.Timedelta(days=1))
    bars = frame(len(days))
    bars["open_time"] = days.as_unit("ms").astype("int64")
    folder = write(tmp_path / "bars", ACME=bars)
    rules = Cleaning(min_segment=32)
    read = read_bank([folder], "5m", calendar, rules)
    # A print at the close belongs to no interval, and cuts nothing.
    assert read.bank.spans.tolist() == [[0, 156]]
    assert read.dropped["ACME"].outside_sessions == 2
    assert read.bank.stamps[0, :2].tolist() == [30, 9]


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        ("absent", "--bars: expected a file or folder, there is none at"),
        ("empty", r"--bars: expected bars files \(.parquet"),
        ("short", "no segment of 32 bars or more is left of 20 bars of 1 symbols"),
    ],
)
def test_nothing_to_read(tmp_path: Path, bars: str, message: str) -> None:
    write(tmp_path / "empty")
    write(tmp_path / "short", AAA=frame(20))
    with pytest.raises(InputError, match=message):
        bank_of(tmp_path / bars)
