"""Bars of many files to segments: runs of consecutive intervals of one symbol, in one big array."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bars.calendar import Calendar
from ..bars.tables import IN_FOLDERS, BarColumns, joined, placed, read_columns
from ..errors import InputError
from .quality import Dropped, clean
from .settings import Cleaning


class Bank(NamedTuple):
    """All bars that were kept, N rows; segments are rows [start, end).

    `places` are the calendar's ordinals, consecutive within a segment. Values are held in float32:
    their rounding (6e-8 of a price) is far below what z-scores resolve, and they take half the
    memory.
    """

    values: NDArray[np.float32]
    """(N, 6) open, high, low, close, volume, amount."""
    stamps: NDArray[np.int8]
    """(N, 5) minute, hour, weekday, day, month in the calendar's zone."""
    open_times: NDArray[np.int64]
    places: NDArray[np.int64]
    spans: NDArray[np.int64]
    """(S, 2) rows of each segment."""
    symbols: list[str]
    """The symbol of each segment."""
    times: NDArray[np.int64]
    """(M,) the different open times of all bars read, those that were dropped too, in order."""
    time_places: NDArray[np.int64]
    """(M,) their places."""

    def digest(self) -> str:
        """What tells these bars, and how time is split, from others."""
        h = hashlib.blake2b(digest_size=16)
        for array in (self.values, self.stamps, self.places, self.spans, self.times):
            h.update(np.ascontiguousarray(array).data)
        return h.hexdigest()


class Read(NamedTuple):
    """The bank, and what was dropped of each symbol."""

    bank: Bank
    dropped: dict[str, Dropped]


def read_bank(paths: Iterable[Path], interval: str, calendar: Calendar, rules: Cleaning) -> Read:
    """Reads bars files and folders of them. InputError where there is nothing to learn from."""
    dropped: dict[str, Dropped] = {}
    parts: list[tuple[str, BarColumns, NDArray[np.int64], NDArray[np.int64]]] = []
    for symbol, read in sorted(_by_symbol(bars_files(paths), interval).items()):
        columns, places, outside = placed(read, calendar)
        spans, of_symbol = clean(places, columns.values, rules)
        bars = len(read.open_times)
        dropped[symbol] = of_symbol._replace(bars=bars, outside_sessions=outside)
        parts.append((symbol, columns, places, spans))
    if not sum(len(spans) for *_, spans in parts):
        raise InputError(
            f"--bars: no segment of {rules.min_segment} bars or more is left of "
            f"{sum(d.bars for d in dropped.values())} bars of {len(dropped)} symbols "
            f"(--min-segment, --window, --calendar, --interval {interval})"
        )
    rows = [
        (symbol, columns, places, start, end)
        for symbol, columns, places, spans in parts
        for start, end in spans.tolist()
    ]
    lengths = np.array([end - start for *_, start, end in rows], np.int64)
    ends = np.cumsum(lengths)
    open_times = np.concatenate([c.open_times[a:b] for _, c, _, a, b in rows])
    # Symbols share most open times.
    different, which = np.unique(open_times, return_inverse=True)
    times = np.unique(np.concatenate([c.open_times for _, c, *_ in parts]))
    bank = Bank(
        values=np.concatenate([c.values[a:b].astype(np.float32) for _, c, _, a, b in rows]),
        stamps=calendar.stamps(different).astype(np.int8)[which],
        open_times=open_times,
        places=np.concatenate([p[a:b] for _, _, p, a, b in rows]),
        spans=np.stack((ends - lengths, ends), axis=-1),
        symbols=[symbol for symbol, *_ in rows],
        times=times,
        time_places=calendar.places(times),
    )
    return Read(bank, dropped)


def bars_files(paths: Iterable[Path]) -> list[Path]:
    """The files that are named, and those of the folders that are named."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.name.endswith(IN_FOLDERS))
            if not inside:
                raise InputError(f"--bars: expected bars files ({', '.join(IN_FOLDERS)}) in {path}")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"--bars: expected a file or folder, there is none at {str(path)!r}")
    return files


def _by_symbol(files: Iterable[Path], interval: str) -> dict[str, BarColumns]:
    found: dict[str, list[BarColumns]] = {}
    for file in files:
        for symbol, columns in read_columns(file, interval).items():
            found.setdefault(symbol, []).append(columns)
    return {symbol: joined(symbol, parts) for symbol, parts in found.items()}
