"""The command `generate`: its series, and the contexts that it takes."""

from pathlib import Path

import pandas as pd
import pytest

from kronos_stream.bars.tables import read_bars
from kronos_stream.cli import main

from .samples import SMALL, series_of, write_series

pytestmark = pytest.mark.usefixtures("tiny_model")


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_synthetic_bars_are_possible_ones_that_can_be_read(
    bars: Path, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"made.{ending}"
    words = ["generate", *SMALL, "--bars", str(bars), "--count", "10", "--out", str(out)]
    assert main(words) == 0
    made = read_bars(out, "5m")
    assert len(made) == 10
    assert {name.split("#")[0] for name in made} == {"AAA", "BBB"}
    for series in made.values():
        assert len(series) == 4
        for one in series:
            assert one.low <= min(one.open, one.close) <= max(one.open, one.close) <= one.high
            assert one.volume >= 0
    again = tmp_path / f"again.{ending}"
    assert main([*words[:-1], str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_few_contexts_are_continued_more_than_once(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "short", series_of("AAA", 26))
    out = tmp_path / "made.csv"
    words = ["generate", *SMALL, "--bars", str(folder), "--count", "5", "--out", str(out)]
    assert main(words) == 0
    frame = pd.read_csv(out)
    assert frame["series"].nunique() == 5
    assert frame.groupby("series")["open_time"].min().nunique() == 2


def test_contexts_that_give_no_forecast_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half, other = series_of("AAA", 300), series_of("BBB", 300)
    still = half.values.copy()
    still[150:] = still[150]
    folder = write_series(tmp_path / "half", half._replace(values=still), other)
    out = tmp_path / "made.csv"
    words = ["generate", *SMALL, "--bars", str(folder), "--count", "60", "--out", str(out)]
    assert main(words) == 0
    sources = pd.read_csv(out).groupby("series")["source"].first().value_counts()
    assert sources.to_dict() == {"AAA": 30, "BBB": 30}
    assert "60 series in" in (said := capsys.readouterr().err)
    assert "contexts passed over: flat_anchor" in said
