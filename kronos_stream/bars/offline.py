"""Ticks file → bars file, without a broker: the very same fold, the file's order as the log."""

from collections import Counter
from pathlib import Path

from msgspec import Struct

from ..errors import InputError, RejectedError
from ..settings import BarsSettings
from ..wire.messages import Bar
from ..wire.tick_files import read_ticks
from .fold import BarsConfig, PartitionFold
from .outputs import BarOut, Output
from .tables import check_ending, write_bars


class Summary(Struct, frozen=True):
    """What an aggregation did: ticks read, bars written, and the fold's counters."""

    ticks: int
    bars: int
    counters: dict[str, int]


def fold_file(
    ticks: Path, settings: BarsSettings, symbols: frozenset[str] | None = None
) -> tuple[list[Bar], Summary]:
    """The bars of a ticks file, of all its symbols or some, in the order of their closes.

    With `edges = keep` the bars that the file's beginning and end cut off are among them
    (complete=false). A tick that cannot be used raises InputError with its row.
    """
    fold = PartitionFold(config=BarsConfig.of(settings), symbols=symbols)
    decoder = settings.tick_decoder()
    bars: list[Bar] = []
    row = 0
    for batch in read_ticks(ticks):
        for symbol, price, qty, time, trade_id in zip(*batch[:5], strict=True):
            row += 1
            try:
                trade = decoder.trade(symbol, time, price, qty, trade_id)
            except RejectedError as error:
                raise InputError(f"{ticks}: row {row}: {error.detail}") from error
            outputs = fold.reach(trade.time) + fold.tick(row, trade)
            if outputs:
                _collect(outputs, bars)
    _collect(fold.end(), bars)
    counters: Counter[str] = fold.counters
    return bars, Summary(ticks=row, bars=len(bars), counters=dict(counters))


def aggregate_file(
    ticks: Path, out: Path, settings: BarsSettings, symbols: frozenset[str] | None = None
) -> Summary:
    """Writes the bars of a ticks file as a table, by the ending of `out`."""
    check_ending(out)
    bars, summary = fold_file(ticks, settings, symbols)
    write_bars(out, bars)
    return summary


def _collect(outputs: list[Output], bars: list[Bar]) -> None:
    bars.extend(output.bar for output in outputs if isinstance(output, BarOut))
