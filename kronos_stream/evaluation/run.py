"""Bars and a model → the report: one pass, the same origins for everyone."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, TextIO

import numpy as np

from ..engine.spec import bars_needed
from ..errors import InputError
from ..model.catalog import part_of
from ..settings import ModelSettings, Settings
from ..training.folder import DATA
from ..wire.messages import ForecastSpec
from .baselines import (
    context_returns,
    ewma_variance,
    persistence,
    random_walk,
    realised_returns,
    seasonal_naive,
)
from .collect import Collected, collect
from .garch import garch
from .inputs import open_inputs
from .origins import Grid, Origin, lay_grid, minute
from .predictions import Predictions
from .progress import progress
from .sampler import Sampler
from .scores import Truth
from .series import Series

TIMES: Final = 540
"""Of a grid, unless told: a few more than LEAST, since some forecasts are refused."""
LEAST: Final = 500
"""Origins of every symbol whose bars allow so many."""
HOUR_MS: Final = 3_600_000


class Options(NamedTuple):
    """What is asked beside the settings."""

    bars: Sequence[Path]
    symbols: Sequence[str] = ()
    origins: int | None = None
    """Times of the grid; None: TIMES, or as many more as give each symbol LEAST origins."""
    since: int | None = None
    until: int | None = None
    both_joins: bool = False


class Evaluated(NamedTuple):
    """Everything that a report is made of."""

    spec: ForecastSpec
    revision: str
    series: list[Series]
    grid: Grid
    collected: Collected
    truth: Truth
    forecasters: list[Predictions]
    """The model's first, one for each join; then the baselines."""
    fits: dict[str, int]


def evaluate(settings: Settings, options: Options, out: TextIO) -> Evaluated:
    """Forecasts of the model and of the baselines at one set of origins, scored."""
    pair, spec, calendar, series = open_inputs(settings, options.bars, options.symbols, out)
    context, horizon = bars_needed(spec), spec.horizon
    grid = lay_grid(
        series,
        calendar,
        context=context,
        horizon=horizon,
        count=options.origins or TIMES,
        least=0 if options.origins else LEAST,
        since=options.since,
        until=options.until,
    )
    if options.origins is None and len(grid.times) > TIMES:
        print(
            f"origins: {len(grid.times)} times instead of {TIMES}, for {LEAST} a symbol: "
            f"{len(grid.origins)} forecasts (--origins sets another number)",
            file=out,
        )
    _name_the_hours(series, grid, out)
    _name_the_trained(settings.model, int(grid.times[0]), out)
    sampler = Sampler(
        pair,
        spec,
        calendar,
        device=settings.model.device,
        cache_bytes=settings.model.cache_mib * 2**20,
    )
    other = "none" if spec.join == "last_close" else "last_close"
    with progress("forecasts", len(grid.origins), out) as advance:
        collected = collect(
            sampler,
            series,
            grid,
            realised_returns(series, grid.origins, horizon),
            joins=(spec.join, other) if options.both_joins else (spec.join,),
            levels=settings.forecast.quantile_levels,
            advance=advance,
        )
    if not collected.origins:
        reasons = sorted({r for counts in collected.refused.values() for r in counts})
        way_out = "; --tiny-prices scale takes tiny prices" if "tiny_prices" in reasons else ""
        raise InputError(
            f"bars: expected a forecast at some origin, got none ({', '.join(reasons)}){way_out}"
        )
    origins = collected.origins
    if options.origins is None:
        _name_the_short(series, grid, origins, out)
    y = realised_returns(series, origins, horizon)
    returns = context_returns(series, origins, context)
    truth = Truth(
        y=y,
        ewma=np.sqrt(ewma_variance(returns)),
        z=collected.z,
        unit=collected.unit,
        symbol=np.array([origin.series for origin in origins]),
        time=np.array([origin.time for origin in origins]),
    )
    with progress("garch", len(origins), out) as advance:
        of_garch, fits = garch(series, origins, returns, y, advance)
    forecasters = [
        *_named(collected.predictions),
        persistence(y),
        random_walk(returns, y),
        of_garch,
        seasonal_naive(series, origins, calendar, y),
    ]
    return Evaluated(spec, sampler.revision, series, grid, collected, truth, forecasters, fits)


def _name_the_hours(series: Sequence[Series], grid: Grid, out: TextIO) -> None:
    """A grid whose stride is nearly a day, or half of one, sees the same hours again and again."""
    visited = np.unique(grid.times // HOUR_MS % 24)
    traded = np.unique(np.concatenate([one.open_times for one in series]) // HOUR_MS % 24)
    if len(visited) < 0.75 * min(len(traded), len(grid.times) / 2):
        print(
            f"origins: {len(grid.times)} times fall into {len(visited)} of the {len(traded)} hours "
            "of a day that have bars (another number of --origins spreads them)",
            file=out,
        )


def _name_the_trained(model: ModelSettings, first_origin: int, out: TextIO) -> None:
    """A checkpoint that lies in the folder of its run is judged after what it was trained on."""
    parts = {model.model: part_of(model.model, "model")}
    if model.tokenizer is not None:
        parts.setdefault(model.tokenizer, part_of(model.tokenizer, "tokenizer"))
    for name, part in parts.items():
        try:
            told = (Path(part).resolve(strict=True).parent / DATA).read_text()
            until = int(json.loads(told)["train_until"])
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if first_origin < until:
            print(
                f"{name} was trained on bars up to {minute(until)} (its {DATA}); the first origin "
                f"is at {minute(first_origin)} (--since)",
                file=out,
            )


def _name_the_short(
    series: Sequence[Series], grid: Grid, origins: Sequence[Origin], out: TextIO
) -> None:
    """Says in one line which symbols have few origins, and how many they could have."""
    used = Counter(origin.series for origin in origins)
    few = [
        f"{used[number]} of {one.symbol} (its bars allow {grid.usable[one.symbol]})"
        for number, one in enumerate(series)
        if used[number] < LEAST
    ]
    if few:
        print(f"origins: expected {LEAST} or more a symbol, got {', '.join(few)}", file=out)


def _named(predictions: dict[str, Predictions]) -> list[Predictions]:
    """The model's, the first under its own name."""
    first, *others = predictions
    named = [predictions[first].renamed("kronos")]
    return named + [predictions[join].renamed(f"kronos_join_{join}") for join in others]
