"""The command `evaluate`: from settings to the files of a report."""

import json
from pathlib import Path
from typing import TextIO

from ..errors import InputError
from ..settings import Settings
from .files import write_forecasts, write_tables
from .page import page
from .plots import write_plots
from .report import build_report
from .run import Options, evaluate


def evaluate_to(
    settings: Settings, options: Options, out: Path, forecasts: Path | None, say: TextIO
) -> None:
    """Writes report.json and all that is made from it to the folder `out`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: cannot make the folder {out}: {error.strerror}") from error
    evaluated = evaluate(settings, options, say)
    report = build_report(evaluated, model=settings.model.model, seed=settings.forecast.seed)
    (out / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_tables(report, out)
    write_plots(evaluated, report, out)
    if forecasts is not None:
        write_forecasts(evaluated, settings.forecast.quantile_levels, forecasts)
    (out / "report.md").write_text(page(report))
    print(f"report in {out}", file=say)
