"""Which file holds the history of a symbol."""

from pathlib import Path

import pandas as pd
import pytest

from kronos_stream.bars.tables import read_bars, write_bars
from kronos_stream.errors import InputError
from kronos_stream.feeds.history import history_files
from tests.samples import bar


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz", ".jsonl"])
def test_a_folder_holds_a_file_a_symbol(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"BTCUSDT{ending}"
    path.touch()
    assert history_files(tmp_path, ["BTCUSDT", "ETHUSDT"]) == {"BTCUSDT": path}


def test_a_compressed_file_of_a_folder_is_read_as_that_symbol(tmp_path: Path) -> None:
    write_bars(tmp_path / "plain.csv", [bar("BTCUSDT", i) for i in range(3)])
    frame = pd.read_csv(tmp_path / "plain.csv").drop(columns="symbol")
    frame.to_csv(tmp_path / "BTCUSDT.csv.gz", index=False)
    (path,) = history_files(tmp_path, ["BTCUSDT"]).values()
    assert len(read_bars(path, "5m", symbol="BTCUSDT")["BTCUSDT"]) == 3


def test_a_file_is_that_of_every_symbol(tmp_path: Path) -> None:
    path = tmp_path / "bars.csv.gz"
    path.touch()
    assert history_files(path, ["A", "B"]) == {"A": path, "B": path}


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"feed\.history: expected a bars file or a folder"):
        history_files(tmp_path / "none", ["A"])
