"""Bars of many symbols as arrays, from files: what a forecast may see is a slice of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bars.calendar import Calendar
from ..bars.tables import IN_FOLDERS, BarColumns, joined, placed, read_columns, symbol_of
from ..context.window import Window
from ..errors import InputError, some_of
from ..wire.messages import CLOSE


class Series(NamedTuple):
    """All bars of one symbol, oldest first."""

    symbol: str
    interval: str
    open_times: NDArray[np.int64]
    """(n,) ms, UTC."""
    values: NDArray[np.float64]
    """(n, 6): open, high, low, close, volume, amount."""
    places: NDArray[np.int64]
    """(n,) ordinals in the calendar: bars between which none is missing differ by 1."""
    outside: int
    """Bars of the file that lie outside the calendar's sessions and were left out."""

    def window(self, start: int, end: int) -> Window:
        """The bars [start, end), as the stream would hold them."""
        n = end - start
        return Window(
            symbol=self.symbol,
            interval=self.interval,
            open_times=self.open_times[start:end],
            revisions=np.zeros(n, np.int64),
            values=self.values[start:end],
            synthetic=np.zeros(n, np.bool_),
            complete=np.ones(n, np.bool_),
            history=np.zeros(n, np.bool_),
        )

    def log_closes(self) -> NDArray[np.float64]:
        """(n,) natural logarithms of the closes."""
        return np.log(self.values[:, CLOSE])


def read_series(
    paths: Sequence[Path], symbols: Sequence[str], interval: str, calendar: Calendar
) -> list[Series]:
    """The series of `symbols` (none: all) in files or folders of files, by symbol.

    A symbol is a column of a file or, without that column, the file's stem; its bars may lie in
    several files. InputError where a symbol is in no file, or a bar in two of them.
    """
    parts: dict[str, list[BarColumns]] = {}
    others: set[str] = set()
    for file in _files(paths, symbols):
        for symbol, columns in read_columns(file, interval).items():
            if symbols and symbol not in symbols:
                others.add(symbol)
                continue
            parts.setdefault(symbol, []).append(columns)
    found: dict[str, Series] = {}
    for symbol, of_symbol in parts.items():
        kept, places, outside = placed(joined(symbol, of_symbol), calendar)
        found[symbol] = Series(symbol, interval, *kept, places, outside)
    missing = [symbol for symbol in symbols if symbol not in found]
    if missing:
        where = ", ".join(map(str, paths))
        raise InputError(
            f"symbol: expected bars of {', '.join(missing)} in {where}, "
            f"found {some_of(sorted({*found, *others}))}"
        )
    empty = [series.symbol for series in found.values() if not len(series.places)]
    if empty:
        raise InputError(f"bars.calendar: no bar of {', '.join(empty)} lies in its sessions")
    return [found[symbol] for symbol in sorted(found)]


def _files(paths: Sequence[Path], symbols: Sequence[str]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        files = sorted(file for file in path.iterdir() if file.name.endswith(IN_FOLDERS))
        if not files:
            raise InputError(f"bars: expected files ending in {', '.join(IN_FOLDERS)} in {path}")
        # In a folder with a file a symbol the other files need not be read.
        named = [file for file in files if symbol_of(file) in symbols]
        every = {symbol_of(file) for file in named} == set(symbols)
        yield from named if symbols and every else files
