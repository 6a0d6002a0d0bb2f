"""The command `evaluate`: from settings to the files of a report."""

import json
from pathlib import Path
from typing import TextIO

from ..bars.tables import writing
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
    evaluated = evaluate(settings, options, say)
    report = build_report(evaluated, model=settings.model.model, seed=settings.forecast.seed)
    with writing(out):
        (out / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        (out / "report.md").write_text(page(report))
        write_tables(report, out)
        write_plots(evaluated, report, out)
    if forecasts is not None:
        with writing(forecasts):
            write_forecasts(evaluated, settings.forecast.quantile_levels, forecasts)
    print(f"report in {out}", file=say)
