"""The commands that judge a model off-line: `evaluate` and `generate`.

What a user can mend is one line; everything heavy is imported by the command that needs it.
"""

import sys
from pathlib import Path
from tempfile import TemporaryFile

import click

from . import flags
from .errors import SettingsError
from .flags import check_bars, settings_of, time_ms
from .settings_loading import Loaded

FILE = click.Path(path_type=Path, dir_okay=False)
ANY = click.Path(path_type=Path)


def _check_bars(paths: tuple[Path, ...]) -> None:
    if not paths:
        raise SettingsError("--bars: expected a FILE or a FOLDER of bars")
    check_bars(paths)


def _span(since: str | None, until: str | None) -> tuple[int | None, int | None]:
    begin = None if since is None else time_ms("--since", since)
    end = None if until is None else time_ms("--until", until)
    if begin is not None and end is not None and begin >= end:
        raise SettingsError(f"--until: expected a time after --since {since}, got {until}")
    return begin, end


bars_option = click.option(
    "--bars", type=ANY, metavar="FOLDER|FILE", multiple=True, help="Parquet, csv or JSON lines."
)
symbol_option = click.option(
    "--symbol", metavar="S", multiple=True, help="Of the bars, one or more; none: all."
)
since_option = click.option("--since", metavar="TIME", help="First origin, UTC or ms.")
until_option = click.option("--until", metavar="TIME", help="Last bar that is used, UTC or ms.")


@click.command()
@settings_of(flags.TABLE, flags.MODEL, flags.FORECAST_SEED)
@bars_option
@symbol_option
@click.option(
    "--origins",
    type=click.IntRange(min=2),
    metavar="N",
    help="Times of the grid; without it 540, more where a symbol would have less than 500.",
)
@since_option
@until_option
@click.option("--both-joins", is_flag=True, help="Score the other join, too, on the same paths.")
@click.option("--out", type=ANY, metavar="DIR", help="Folder of the report.")
@click.option("--forecasts", type=FILE, metavar="FILE", help="Every origin's quantiles.")
def evaluate(
    loaded: Loaded,
    bars: tuple[Path, ...],
    symbol: tuple[str, ...],
    origins: int | None,
    since: str | None,
    until: str | None,
    both_joins: bool,
    out: Path | None,
    forecasts: Path | None,
) -> int:
    """Judge a model's forecasts at many past times, beside baselines.

    The report holds IC, CRPS, coverage, volatility and more, with Diebold-Mariano tests.
    """
    from .evaluation.extra import require_extra

    require_extra()
    begin, end = _span(since, until)
    _check_bars(bars)
    if out is None:
        raise SettingsError("--out: expected a DIR for the report")
    if out.exists() and not out.is_dir():
        raise SettingsError(f"--out: expected a folder, {str(out)!r} is a file")
    from .bars.tables import check_ending, writing

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=out).close()
    if forecasts is not None:
        check_ending(forecasts)
    from .engine.environment import set_defaults

    set_defaults()
    from .evaluation.command import evaluate_to
    from .evaluation.run import Options

    options = Options(bars, symbol, origins, begin, end, both_joins)
    evaluate_to(loaded.settings, options, out, forecasts, sys.stderr)
    return 0


@click.command()
@settings_of(flags.TABLE, flags.MODEL, flags.FORECAST_SEED)
@bars_option
@symbol_option
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Series to make.")
@since_option
@until_option
@click.option("--out", type=FILE, metavar="FILE", help=".parquet, .csv or .jsonl.")
def generate(
    loaded: Loaded,
    bars: tuple[Path, ...],
    symbol: tuple[str, ...],
    count: int | None,
    since: str | None,
    until: str | None,
    out: Path | None,
) -> int:
    """Synthetic K-lines: sampled continuations of real bars, --horizon bars each."""
    begin, end = _span(since, until)
    _check_bars(bars)
    if count is None:
        raise SettingsError("--count: expected the number of series to make")
    if out is None:
        raise SettingsError("--out: expected a FILE ending in .parquet, .csv or .jsonl")
    from .engine.environment import set_defaults

    set_defaults()
    from .evaluation.synthetic import generate_file

    made = generate_file(
        loaded.settings, bars, symbol, count, out, sys.stderr, since=begin, until=end
    )
    without = "".join(
        f", {n} contexts passed over: {why}" for why, n in sorted(made.refused.items())
    )
    click.echo(f"{made.series} series in {out}{without}", err=True)
    return 0
