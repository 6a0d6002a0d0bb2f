"""The pictures of a report, drawn without a display."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..wire.messages import CLOSE
from .predictions import LEVELS
from .report import shown_steps
from .run import Evaluated

FANS: Final = 4
"""Origins that are drawn, evenly over all: none is chosen for its looks."""
POINT_FORECASTS: Final = ("persistence",)


def write_plots(evaluated: Evaluated, report: dict[str, Any], folder: Path) -> None:
    """fans.png, reliability.png, ic.png and crps.png."""
    _save(_fans(evaluated), folder / "fans.png")
    _save(_reliability(report), folder / "reliability.png")
    _save(_by_step(report, ("ic", "rank_ic"), ("IC", "RankIC")), folder / "ic.png")
    _save(_skill(report), folder / "crps.png")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", metadata={"Software": None})


def _figure(columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(5.0 * columns, 3.6 * rows))
    # By hand: matplotlib's own layouts draw everything a second time.
    figure.subplots_adjust(0.7 / (5 * columns), 0.5 / (3.6 * rows), 0.98, 1 - 0.3 / (3.6 * rows))
    figure.subplots_adjust(wspace=0.25, hspace=0.35)
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]
    return figure, axes


def _fans(evaluated: Evaluated) -> Figure:
    """The bands of some forecasts, the closes before them and what came."""
    origins, horizon = evaluated.collected.origins, evaluated.spec.horizon
    chosen = np.unique(np.linspace(0, len(origins) - 1, FANS).round().astype(int))
    figure, axes = _figure(2, -(-len(chosen) // 2))
    for place, ax in zip(chosen, axes):
        origin = origins[place]
        one = evaluated.series[origin.series]
        change = 100 * (one.values[:, CLOSE] / one.values[origin.row, CLOSE] - 1)
        before = min(2 * horizon, origin.row)
        bands = 100 * np.expm1(evaluated.forecasters[0].quantiles[place])
        bands = np.concatenate((np.zeros((1, len(LEVELS))), bands))
        steps = np.arange(horizon + 1)
        for half in range(len(LEVELS) // 2):
            ax.fill_between(
                steps, bands[:, half], bands[:, -1 - half], color="C0", alpha=0.1, linewidth=0
            )
        ax.plot(steps, bands[:, len(LEVELS) // 2], color="C0", label="median")
        ax.plot(steps, change[origin.row : origin.row + horizon + 1], color="C3", label="realised")
        ax.plot(np.arange(-before, 1), change[origin.row - before : origin.row + 1], color="black")
        when = np.datetime64(int(one.open_times[origin.row]), "ms").astype("datetime64[m]")
        ax.set_title(f"{one.symbol} {when}", fontsize=9)
        ax.set_xlabel("bars")
        ax.set_ylabel("close, % from the last one")
        ax.legend(fontsize=7)
    return figure


def _reliability(report: dict[str, Any]) -> Figure:
    """How often what happened lay below each quantile: the diagonal is a calibrated forecast."""
    steps = shown_steps(report["settings"]["horizon"])
    figure, axes = _figure(len(steps))
    for step, ax in zip(steps, axes):
        ax.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        for name, made in report["forecasters"].items():
            if made["pooled"] and name not in POINT_FORECASTS:
                below = made["pooled"][step - 1]["below"]
                ax.plot(report["levels"], below, marker=".", linewidth=1, label=name)
        ax.set_title(f"step {step}", fontsize=9)
        ax.set_xlabel("level of the quantile")
        ax.set_ylabel("share below it")
        ax.legend(fontsize=7)
    return figure


def _by_step(report: dict[str, Any], names: tuple[str, ...], titles: tuple[str, ...]) -> Figure:
    """Scores of the model by step, with their intervals."""
    scored = report["forecasters"]["kronos"]["pooled"]
    steps = [one["step"] for one in scored]
    figure, axes = _figure(len(names))
    for name, title, ax in zip(names, titles, axes):
        values = [np.nan if one[name] is None else one[name] for one in scored]
        ends = [one.get("interval_95", {}).get(name) or (np.nan, np.nan) for one in scored]
        low, high = np.array(ends, np.float64).T
        ax.axhline(0, color="black", linewidth=0.8)
        ax.fill_between(steps, low, high, alpha=0.2, linewidth=0)
        ax.plot(steps, values, marker=".")
        ax.set_title(f"{title} of the log return, 95 % interval", fontsize=9)
        ax.set_xlabel("step")
    return figure


def _skill(report: dict[str, Any]) -> Figure:
    """CRPS by step as a share of the random walk's."""
    walk = report["forecasters"]["random_walk"]["pooled"]
    figure, (ax,) = _figure(1)
    ax.axhline(1, color="black", linewidth=0.8)
    for name, made in report["forecasters"].items():
        scored = made["pooled"]
        # On fewer origins than the walk's a ratio would compare different times.
        if name == "random_walk" or not scored or scored[0]["origins"] != walk[0]["origins"]:
            continue
        ratio = [one["crps"] / other["crps"] for one, other in zip(scored, walk)]
        ax.plot(range(1, len(ratio) + 1), ratio, marker=".", linewidth=1, label=name)
    ax.set_title("CRPS ÷ that of the random walk (of those with as many origins)", fontsize=9)
    ax.set_xlabel("step")
    ax.legend(fontsize=7)
    return figure
