"""report.json → report.md: the tables that one looks at first."""

from collections.abc import Sequence
from typing import Any

from .report import shown_steps

BP = 1e4


def page(report: dict[str, Any]) -> str:
    """The page, in Markdown."""
    settings, origins = report["settings"], report["origins"]
    symbols = sum(counts["used"] > 0 for counts in origins["symbols"].values())
    steps = shown_steps(settings["horizon"])
    parts = [
        f"# Evaluation of {report['model']}",
        "",
        f"{origins['used']} origins of {symbols} symbols at {report['bootstrap']['times']} "
        f"times, {settings['paths']} paths, lookback {settings['lookback']}, anchor_every "
        f"{settings['anchor_every']}, join {settings['join']}, temperature "
        f"{settings['temperature']:g}, top_p {settings['top_p']:g}, fine_head_rotary "
        f"{settings['fine_head_rotary']}. Model revision `{report['model_revision'][:16]}`.",
        "",
        *_few_blocks(report),
        "## CRPS of the log return, bp",
        "",
        *_table(
            ["", "origins", *(f"step {step}" for step in steps)],
            [
                [
                    name,
                    str(_at(made, 1).get("origins", 0)),
                    *(_with_interval(_at(made, step), "crps", BP, 2) for step in steps),
                ]
                for name, made in report["forecasters"].items()
            ],
        ),
        "",
        f"GARCH: {report['garch']['failed']} of {report['garch']['fits']} fits failed.",
        "",
        "## Against each baseline (Diebold-Mariano)",
        "",
        *_table(
            ["", "against", "step", "difference, bp", "95 % interval", "statistic", "p"],
            [
                [
                    c["forecaster"],
                    c["against"],
                    str(c["step"]),
                    _number(c["difference"], BP, 2),
                    _interval(c["interval_95"], BP, 2),
                    _number(c["statistic"], 1, 2),
                    _number(c["p_value"], 1, 4),
                ]
                for c in report["comparisons"]
            ],
        ),
    ]
    parts += ["", _calibrated(report)]
    for step in steps:
        parts += ["", f"## Step {step}", "", *_step_table(report, step)]
    parts += ["", "## Synthetic fidelity", "", *_fidelity(report["fidelity"])]
    skipped = [
        [symbol, str(counts["used"]), ", ".join(f"{n} {r}" for r, n in counts["skipped"].items())]
        for symbol, counts in origins["symbols"].items()
    ]
    parts += ["", "## Origins", "", *_table(["symbol", "used", "skipped"], skipped), ""]
    return "\n".join(parts)


def _calibrated(report: dict[str, Any]) -> str:
    bands = report["band_of_a_calibrated_forecast"]
    told = ", ".join(f"{100 * bands[band]:.1f} %" for band in ("50", "80", "90"))
    return f"Of a calibrated forecast of as many paths the 50, 80 and 90 % bands cover {told}."


def _few_blocks(report: dict[str, Any]) -> list[str]:
    times, block = report["bootstrap"]["times"], report["bootstrap"]["block"]
    if report["bootstrap"]["resamples"]:
        return []
    return [f"No intervals: {times} times are too few for blocks of {block}.", ""]


def _step_table(report: dict[str, Any], step: int) -> list[str]:
    columns = {
        "IC": ("ic", 1.0, 3),
        "RankIC": ("rank_ic", 1.0, 3),
        "direction": ("direction", 1.0, 3),
        "coverage 50 %": ("coverage_50", 1.0, 3),
        "80 %": ("coverage_80", 1.0, 3),
        "90 %": ("coverage_90", 1.0, 3),
        "quantile loss, bp": ("quantile_loss", BP, 2),
        "volatility MAE, bp": ("volatility_mae", BP, 2),
        "volatility R²": ("volatility_r2", 1.0, 3),
        "spread ÷ EWMA": ("spread_to_ewma", 1.0, 3),
        "slope on z": ("slope", 1.0, 3),
        "realised slope": ("realised_slope", 1.0, 3),
    }
    made = report["forecasters"]
    return _table(
        ["", *made],
        [
            [title, *(_with_interval(_at(one, step), *how) for one in made.values())]
            for title, how in columns.items()
        ],
    )


def _fidelity(found: dict[str, Any]) -> list[str]:
    if "skipped" in found:
        return [f"None: {found['skipped']}."]
    error, transfer = found["classifier_error"], found["train_on_synthetic_test_on_real"]
    errors = [[f"{what} (0.5 is best)", _number(error[what], 1, 3)] for what in error]
    columns = ("tstr", "trtr", "larger_class")
    accuracies = [
        [what.replace("_", " "), *(_number(t[k], 1, 3) for k in columns)]
        for what, t in transfer.items()
    ]
    return [
        f"{found['train_windows']} windows of each kind to train on, {found['test_windows']} later "
        "ones to test.",
        "",
        *_table(["error of a classifier", ""], errors),
        "",
        *_table(
            ["accuracy on real", "trained on synthetic", "on real", "larger class"], accuracies
        ),
    ]


def _at(made: dict[str, Any], step: int) -> dict[str, Any]:
    return made["pooled"][step - 1] if made["pooled"] else {}


def _with_interval(scored: dict[str, Any], name: str, unit: float, digits: int) -> str:
    value = _number(scored.get(name), unit, digits)
    between = _interval(scored.get("interval_95", {}).get(name), unit, digits)
    return f"{value} ({between})" if between else value


def _interval(ends: Sequence[float] | None, unit: float, digits: int) -> str:
    return "" if ends is None else " to ".join(_number(end, unit, digits) for end in ends)


def _number(value: float | None, unit: float, digits: int) -> str:
    return "–" if value is None else f"{value * unit:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
