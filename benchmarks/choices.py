"""What the choices of a forecast cost or bring, on one model and one set of origins.

`python -m benchmarks.choices --model DIR --bars FOLDER --since TIME` prints a table for
`anchor_every`, `fine_head_rotary`, the sampling profile and `join`: CRPS of the log return in basis
points at steps 1, 6 and 24, beside the first row's, and the share of ids that an older anchor
changes. Each row sees the same contexts and, but for `join`, draws its own paths.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kronos_stream.bars.calendar import calendar_of
from kronos_stream.engine.anchors import NoAnchorError, anchor_of
from kronos_stream.engine.loading import load
from kronos_stream.engine.spec import resolve_spec
from kronos_stream.evaluation.baselines import realised_returns
from kronos_stream.evaluation.collect import collect
from kronos_stream.evaluation.diebold_mariano import diebold_mariano, mean_by_time
from kronos_stream.evaluation.origins import Grid, lay_grid
from kronos_stream.evaluation.progress import progress
from kronos_stream.evaluation.sampler import Sampler
from kronos_stream.evaluation.series import Series, read_series
from kronos_stream.flags import time_ms
from kronos_stream.model.kronos import Kronos
from kronos_stream.model.tokenizer import KronosTokenizer
from kronos_stream.settings import ForecastSettings, ModelSettings, Settings
from kronos_stream.wire.intervals import INTERVAL_MS
from kronos_stream.wire.messages import ForecastSpec

STEPS: Final = (1, 6, 24)
OLDEST: Final = 64
INTERVAL: Final = "5m"
CALENDAR: Final = calendar_of("24/7", INTERVAL_MS[INTERVAL])
CHOICES: Final[dict[str, dict[str, Any]]] = {
    "anchor_every 1": {},
    "anchor_every 0": {"anchor_every": 0},
    "anchor_every 4": {"anchor_every": 4},
    "anchor_every 16": {"anchor_every": 16},
    "anchor_every 64": {"anchor_every": 64},
    "fine_head_rotary trained": {"fine_head_rotary": "trained"},
    "fine_head_rotary none": {"fine_head_rotary": "none"},
    "profile point": {"profile": "point"},
}

Pair = tuple[Kronos, KronosTokenizer]


class Scored(NamedTuple):
    """CRPS (R, H) by row of the grid (NaN: no forecast), and figures of the last step."""

    crps: NDArray[np.float64]
    within_90: float
    spread: float
    """Root mean square of the paths' standard deviation ÷ that of what happened."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices", description=__doc__)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--unrotated", help="a model that was trained with fine_head_rotary none")
    parser.add_argument("--bars", type=Path, required=True)
    parser.add_argument("--symbol", action="append", default=[])
    parser.add_argument("--since", required=True)
    parser.add_argument("--origins", type=int, default=60)
    parser.add_argument("--paths", type=int, default=30)
    parser.add_argument("--max-context", type=int)
    a = parser.parse_args()
    pair = load(ModelSettings(model=a.model, max_context=a.max_context))
    series = read_series([a.bars], a.symbol, INTERVAL, CALENDAR)
    lookback = min(400, pair[0].max_context - OLDEST - max(STEPS))
    grid = lay_grid(
        series,
        CALENDAR,
        context=lookback + OLDEST,
        horizon=max(STEPS),
        count=a.origins,
        since=time_ms("--since", a.since),
    )
    chosen = [(name, pair, changes) for name, changes in CHOICES.items()]
    if a.unrotated:
        other = load(ModelSettings(model=a.unrotated, max_context=a.max_context))
        none = {"fine_head_rotary": "none"}
        chosen.append(("trained and run with fine_head_rotary none", other, none))
    scored: dict[str, Scored] = {}
    for name, one, changes in chosen:
        spec = _spec(one, {"lookback": lookback, "paths": a.paths} | changes)
        first, second = _scored(name, one, spec, series, grid)
        scored[name] = first
        if not changes:
            scored["join none"] = second
    flips = _flips(pair, series, grid, _spec(pair, {"lookback": lookback}))
    _show(f"{a.model}, lookback {lookback}, {a.paths} paths", scored, flips, grid)
    return 0


def _spec(pair: Pair, forecast: dict[str, Any]) -> ForecastSpec:
    settings = Settings(
        model=ModelSettings(),
        forecast=msgspec.convert({"horizon": max(STEPS)} | forecast, ForecastSettings),
    )
    return resolve_spec(settings, pair[0].max_context, "24/7")


def _scored(
    name: str, pair: Pair, spec: ForecastSpec, series: list[Series], grid: Grid
) -> tuple[Scored, Scored]:
    """Under join = last_close, and under none."""
    y = realised_returns(series, grid.origins, spec.horizon)
    with progress(name, len(grid.origins), sys.stderr) as advance:
        collected = collect(
            Sampler(pair, spec, CALENDAR),
            series,
            grid,
            y,
            joins=("last_close", "none"),
            levels=(0.5,),
            advance=advance,
        )
    rows = [grid.origins.index(origin) for origin in collected.origins]
    found = []
    for made in collected.predictions.values():
        crps = np.full(y.shape, np.nan)
        crps[rows] = made.crps
        last, real = made.quantiles[:, -1], y[rows, -1]
        within = (last[:, 0] <= real) & (real <= last[:, -1])
        spread = float(np.sqrt(np.square(made.spread[:, -1]).mean() / np.square(real).mean()))
        found.append(Scored(crps, float(within.mean()), spread))
    return found[0], found[1]


@torch.no_grad()
def _flips(
    pair: Pair, series: list[Series], grid: Grid, spec: ForecastSpec
) -> dict[str, tuple[float, float]]:
    """Shares of coarse and of fine ids of the last bar that an anchor of the mean age of an epoch
    changes, against the anchor of the bar before."""
    found = {}
    for every in (4, 16, 64):
        differ = []
        for origin in grid.origins:
            try:
                fresh, aged = (
                    _ids(pair[1], series[origin.series], origin.row, spec, age)
                    for age in (0, every // 2)
                )
            except NoAnchorError:
                continue
            differ.append([a != b for a, b in zip(fresh, aged, strict=True)])
        coarse, fine = np.mean(differ, axis=0)
        found[f"anchor_every {every}"] = float(coarse), float(fine)
    return found


def _ids(
    tokenizer: KronosTokenizer, series: Series, row: int, spec: ForecastSpec, age: int
) -> tuple[int, int]:
    """Ids of the bar at `row` under the anchor that ends `age` bars before the bar before it."""
    begin, split = row - spec.lookback - age, row - age
    scale = anchor_of(series.values[begin:split], spec)
    z = torch.from_numpy(scale.normalise(series.values[begin : row + 1]))
    s1, s2 = tokenizer.encode(z[None])
    return int(s1[0, -1]), int(s2[0, -1])


def _show(
    title: str, scored: dict[str, Scored], flips: dict[str, tuple[float, float]], grid: Grid
) -> None:
    time = np.array([origin.time for origin in grid.origins])
    base = next(iter(scored.values()))
    used = np.flatnonzero(~np.isnan(np.stack([s.crps[:, 0] for s in scored.values()])).any(0))
    table = Table(title=f"{title}, {len(used)} origins; CRPS in bp (p against the first row)")
    for column in ("choice", *(f"step {s}" for s in STEPS), "90 % band", "spread", "ids flipped"):
        table.add_column(column, justify="left" if column == "choice" else "right")
    for name, one in scored.items():
        cells = []
        for step in STEPS:
            difference = one.crps[used, step - 1] - base.crps[used, step - 1]
            overlap = math.ceil(step / grid.stride) - 1
            p = diebold_mariano(mean_by_time(difference, time[used]), overlap=overlap).p_value
            shown = "" if one is base or np.isnan(p) else f" ({p:.2f})"
            cells.append(f"{1e4 * one.crps[used, step - 1].mean():.1f}{shown}")
        coarse, fine = flips.get(name, (None, None))
        changed = "" if coarse is None else f"{coarse:.0%} coarse, {fine:.0%} fine"
        table.add_row(name, *cells, f"{one.within_90:.0%}", f"{one.spread:.2f}", changed)
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
