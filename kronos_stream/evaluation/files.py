"""The tables of a report: scores and comparisons as csv, every origin's quantiles as asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .run import Evaluated

POOLED = "scores_by_step.csv"
BY_SYMBOL = "scores_by_symbol.csv"
COMPARISONS = "comparisons.csv"
_LISTS = ("below", "interval_95", "direction_wilson_95")


def write_tables(report: dict[str, Any], folder: Path) -> None:
    """Three csv files: all symbols together with intervals, each symbol, and the comparisons."""
    pooled, symbols = [], []
    for name, made in report["forecasters"].items():
        pooled += [{"forecaster": name} | _flat(scored) for scored in made["pooled"]]
        symbols += [
            {"forecaster": name, "symbol": symbol} | _flat(scored)
            for symbol, steps in made["symbols"].items()
            for scored in steps
        ]
    compared = [_flat(c) for c in report["comparisons"]]
    for file, rows in ((POOLED, pooled), (BY_SYMBOL, symbols), (COMPARISONS, compared)):
        pd.DataFrame(rows).to_csv(folder / file, index=False)


def write_forecasts(evaluated: Evaluated, levels: tuple[float, ...], path: Path) -> None:
    """One row an origin and step: symbol, origin (open time of the last bar seen, ms), step, and
    quantiles `q0.05`, ... of the log return from the last close. Nothing of what happened."""
    collected = evaluated.collected
    quantiles = collected.quantiles
    rows, steps = quantiles.shape[:2]
    names = np.array([one.symbol for one in evaluated.series])
    number = np.array([origin.series for origin in collected.origins])
    times = evaluated.grid.times[[origin.time for origin in collected.origins]]
    frame = pd.DataFrame(
        {
            "symbol": np.repeat(names[number], steps),
            "origin": np.repeat(times, steps),
            "step": np.tile(np.arange(1, steps + 1), rows),
        }
        | {f"q{level:g}": quantiles[..., place].reshape(-1) for place, level in enumerate(levels)}
    )
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True, double_precision=15)


def _flat(scored: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a row, those of its intervals as columns of their own."""
    row = {name: value for name, value in scored.items() if name not in _LISTS}
    intervals = scored.get("interval_95")
    if isinstance(intervals, list):
        intervals = {"difference": intervals}
    ends = dict(intervals or {}) | {"direction_wilson": scored.get("direction_wilson_95")}
    for name, pair in ends.items():
        if pair is not None:
            row |= {f"{name}_low": pair[0], f"{name}_high": pair[1]}
    return row
