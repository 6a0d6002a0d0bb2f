"""What every case returns, and how the rows are printed and kept."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measured figure beside its peer's; `ratio` is above 1 where ours is better. None where
    the machine lacks what the case needs; the note says what."""

    case: str
    ours: float | None
    unit: str
    peer: float | None = None
    ratio: float | None = None
    limit_share: float | None = None
    note: str = ""


def machine() -> str:
    """The machine in words: the figures mean nothing without it."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
        if Path("/proc/cpuinfo").exists()
        else iter(()),
        platform.processor(),
    )
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}"


def show(rows: list[Row], out: Path, device: str = "") -> None:
    """Prints the table and writes the same rows as a JSON list to `out`."""
    table = Table(title=", ".join(filter(None, (device, machine()))))
    for column in ("case", "ours", "peer", "ratio", "share of limit", "unit", "note"):
        table.add_column(column, justify="left" if column in {"case", "unit", "note"} else "right")
    for row in rows:
        table.add_row(
            row.case,
            "" if row.ours is None else f"{row.ours:,.4g}",
            "" if row.peer is None else f"{row.peer:,.4g}",
            "" if row.ratio is None else f"{row.ratio:,.1f}x",
            "" if row.limit_share is None else f"{row.limit_share:.0%}",
            row.unit,
            row.note,
        )
    Console(width=160).print(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def percentiles(values: list[float]) -> tuple[float, float]:
    """The 50th and the 99th percentile."""
    p50, p99 = np.percentile(np.asarray(values), [50, 99])
    return float(p50), float(p99)
