"""History of cold symbols: bars from files, published before the first tick."""

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from ..errors import InputError
from ..wire.messages import Bar


def history_files(path: str | Path, symbols: Iterable[str]) -> dict[str, Path]:
    """Which file holds a symbol's history: `path` itself, or in a folder the file named after the
    symbol. InputError where there is neither file nor folder."""
    path = Path(path)
    if path.is_file():
        return dict.fromkeys(symbols, path)
    if not path.is_dir():
        raise InputError(f"feed.history: expected a bars file or a folder of them, got {path}")
    found: dict[str, Path] = {}
    for symbol in symbols:
        for ending in (".parquet", ".csv", ".csv.gz", ".jsonl"):
            if (path / f"{symbol}{ending}").is_file():
                found[symbol] = path / f"{symbol}{ending}"
                break
    return found


def as_history(bars: list[Bar], *, before: int | None, count: int) -> list[Bar]:
    """The last `count` bars whose open time lies before `before` (None: all), marked as history
    and chained among themselves."""
    kept = [bar for bar in bars if before is None or bar.open_time < before][-count:]
    previous = [None, *(bar.open_time for bar in kept[:-1])]
    return [
        msgspec.structs.replace(bar, history=True, prev_open_time=prev, revision=0)
        for bar, prev in zip(kept, previous, strict=False)
    ]


Reader = Callable[[Path, str], list[Bar]]
"""Reads one symbol's bars of a file; given by the wiring, for it lives in a later room."""
