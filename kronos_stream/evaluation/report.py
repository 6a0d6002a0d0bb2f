"""What was evaluated → report.json: plain numbers, nothing that differs from run to run."""

import math
from typing import Any, Final

import numpy as np

from ..wire.messages import CLOSE
from .bootstrap import RESAMPLES, block_length, draw_weights, enough, interval
from .diebold_mariano import diebold_mariano, mean_by_time
from .fidelity import Windows, fidelity
from .predictions import LEVELS, Array, Predictions
from .run import Evaluated
from .scores import Truth, at_step

SHOWN: Final = (1, 6)
"""Steps of the summary, with the last one."""


def shown_steps(horizon: int) -> list[int]:
    """1, 6 and the last."""
    return sorted({step for step in (*SHOWN, horizon) if step <= horizon})


def build_report(evaluated: Evaluated, *, model: str, seed: int) -> dict[str, Any]:
    """The whole report; tables, pictures and the page are made from it."""
    grid, spec = evaluated.grid, evaluated.spec
    # Times of the grid at which no symbol has an origin are no part of the sample.
    used, numbers = np.unique(evaluated.truth.time, return_inverse=True)
    evaluated = evaluated._replace(truth=evaluated.truth._replace(time=numbers))
    times = len(used)
    apart = float(np.median(np.diff(used))) if times > 1 else 1.0
    block = block_length(times, spec.horizon, apart * grid.stride)
    few = not enough(times, block)
    weights = None if few else draw_weights(times, block, seed)
    return {
        "model": model,
        "model_revision": evaluated.revision,
        "settings": {name: getattr(spec, name) for name in spec.__struct_fields__},
        "bars": {
            one.symbol: {
                "first": int(one.open_times[0]),
                "last": int(one.open_times[-1]),
                "bars": len(one.open_times),
                "outside_the_calendar": one.outside,
            }
            for one in evaluated.series
        },
        "origins": _origins(evaluated),
        "bootstrap": {
            "times": times,
            "block": block,
            "resamples": 0 if few else RESAMPLES,
            "seed": seed,
        },
        "garch": evaluated.fits,
        "levels": LEVELS.tolist(),
        "band_of_a_calibrated_forecast": expected_coverage(spec.paths),
        "forecasters": {
            made.name: _scored(made, evaluated.truth, evaluated, weights)
            for made in evaluated.forecasters
        },
        "comparisons": _comparisons(evaluated, weights),
        "fidelity": _fidelity(evaluated, seed),
    }


def expected_coverage(paths: int) -> dict[str, float]:
    """How often a band of `paths` draws holds another draw of the very same distribution: its ends
    lie at the (N − 1)p + 1-th smallest, and the k-th of N has expected probability k/(N + 1)."""
    return {str(b): (paths - 1) * b / 100 / (paths + 1) for b in (50, 80, 90)}


def _origins(evaluated: Evaluated) -> dict[str, Any]:
    grid, collected = evaluated.grid, evaluated.collected
    used = np.bincount([origin.series for origin in collected.origins])
    return {
        "times": len(grid.times),
        "first": int(grid.times[0]),
        "last": int(grid.times[-1]),
        "mean_stride_bars": grid.stride,
        "used": len(collected.origins),
        "symbols": {
            one.symbol: {
                "used": int(used[number]) if number < len(used) else 0,
                "skipped": grid.skipped[one.symbol] | collected.refused.get(one.symbol, {}),
            }
            for number, one in enumerate(evaluated.series)
        },
    }


def _scored(
    made: Predictions, truth: Truth, evaluated: Evaluated, weights: Array | None
) -> dict[str, Any]:
    """Scores by step, of all symbols together and of each."""
    given = made.given()
    pooled, known = made.rows(given), truth.rows(given)
    steps = range(evaluated.spec.horizon)
    found: dict[str, Any] = {
        "pooled": [{"step": h + 1} | at_step(pooled, known, h, weights) for h in steps]
        if given.any()
        else [],
        "symbols": {},
    }
    for number, one in enumerate(evaluated.series):
        its = given & (truth.symbol == number)
        if its.any():
            of_symbol, seen = made.rows(its), truth.rows(its)
            found["symbols"][one.symbol] = [
                {"step": h + 1} | at_step(of_symbol, seen, h) for h in steps
            ]
    return found


def _comparisons(evaluated: Evaluated, weights: Array | None) -> list[dict[str, Any]]:
    """The model, under each join, against each baseline (and the other join) at the shown steps."""
    models = [p for p in evaluated.forecasters if p.name.startswith("kronos")]
    found: list[dict[str, Any]] = []
    for model in models:
        for other in evaluated.forecasters:
            if other.name == model.name or (other in models and model is not models[0]):
                continue
            both = model.given() & other.given()
            if not both.any():
                continue
            time = evaluated.truth.time[both]
            for step in shown_steps(evaluated.spec.horizon):
                difference = model.crps[both, step - 1] - other.crps[both, step - 1]
                overlap = math.ceil(step / evaluated.grid.stride) - 1
                tested = diebold_mariano(mean_by_time(difference, time), overlap=overlap)
                found.append(
                    {"forecaster": model.name, "against": other.name, "step": step}
                    | {k: None if v != v else v for k, v in tested._asdict().items()}
                    | {"interval_95": _difference_interval(difference, time, weights)}
                )
    return found


def _fidelity(evaluated: Evaluated, seed: int) -> dict[str, Any]:
    horizon, collected = evaluated.spec.horizon, evaluated.collected
    real, last = [], []
    for origin in collected.origins:
        values = evaluated.series[origin.series].values
        real.append(values[origin.row + 1 : origin.row + 1 + horizon])
        last.append(values[origin.row, CLOSE])
    windows = Windows(
        real=np.stack(real),
        synthetic=collected.futures,
        last_close=np.array(last),
        ewma=evaluated.truth.ewma,
        time=evaluated.truth.time,
    )
    return fidelity(windows, overlap=math.ceil(horizon / evaluated.grid.stride), seed=seed)


def _difference_interval(difference: Array, time: Any, weights: Array | None) -> list[float] | None:
    """Of the mean over times that the test is about."""
    if weights is None:
        return None
    drawn = weights[:, np.unique(time)]
    with np.errstate(invalid="ignore"):
        return interval((drawn @ mean_by_time(difference, time)) / drawn.sum(1))
