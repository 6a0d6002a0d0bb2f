"""Ticks into bars: off-line from a file, one process."""

import tempfile
import time
from itertools import islice
from pathlib import Path

from kronos_stream.bars.offline import fold_file
from kronos_stream.feeds.simulated import SimulatedFeed
from kronos_stream.settings import BarsSettings, FeedSettings

from .table import Row

TICKS = 500_000
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "ticks" / "SPY.csv.gz"


def offline() -> list[Row]:
    """Simulated ticks of 8 symbols with ids, and SPY's five sessions where they are at hand."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ticks.csv"
        _write(path)
        rows = [_measured("ticks-offline: simulated", path)]
    if SHARED.exists():
        rows.append(_measured("ticks-offline: SPY", SHARED))
    return rows


def _measured(case: str, path: Path) -> Row:
    began = time.perf_counter()
    _, summary = fold_file(path, BarsSettings(gaps="skip", edges="keep"))
    elapsed = time.perf_counter() - began
    note = f"{summary.ticks:,} ticks, {summary.bars:,} bars"
    return Row(case, summary.ticks / elapsed, "ticks/s", note=note)


def _write(path: Path) -> None:
    feed = SimulatedFeed(
        [f"SIM{i}USDT" for i in range(8)],
        FeedSettings(ticks_per_minute=600.0),
        interval="5m",
        grace_ms=1_000,
        start_ms=FeedSettings().start_ms,
    )
    ticks = (arrival.tick for _, batch in feed.minutes() for arrival in batch)
    with path.open("w") as file:
        file.write("time,symbol,price,qty,trade_id\n")
        for t in islice(ticks, TICKS):
            file.write(f"{t.time},{t.symbol},{t.price},{t.qty},{t.trade_id}\n")
