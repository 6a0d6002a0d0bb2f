"""The command line: parses, builds the settings, calls what does the work.

What a user can mend is one line on standard error and exit status 2. Everything heavy is imported
by the command that needs it, so that `--help` answers at once.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from . import __version__, flags
from .cli_evaluate import evaluate, generate
from .cli_train import train
from .errors import KronosStreamError, SettingsError
from .flags import Duration, settings_of, time_ms
from .settings import Settings
from .settings_loading import Loaded, resolved

T = TypeVar("T")

WRONG = 2
"""Exit status of what the user can mend."""
INTERRUPTED = 130
MANY_LATE = 0.5
"""Share of late ticks of a file that is worth a warning."""
FILE = click.Path(path_type=Path, dir_okay=False)

for_option = click.option(
    "--for", "for_s", type=Duration(), metavar="TIME", help="End after 60s, 5m, 1h."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit status."""
    _open_standard_streams()
    try:
        status = cli.main(
            list(sys.argv[1:] if arguments is None else arguments),
            prog_name="kronos-stream",
            standalone_mode=False,
        )
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return WRONG
    except click.ClickException as error:
        return _complain(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except (KronosStreamError, BaseExceptionGroup) as error:
        known = _known(error)
        if known is None:
            raise
        return _complain(str(known))
    return int(status or 0)


def _open_standard_streams() -> None:
    """Who starts us may have closed them: a socket in the place of one is not what libuv expects,
    and what is said there, by our processes, too, must go nowhere."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _known(error: BaseException) -> KronosStreamError | None:
    """The first error of a group in which every error is one that the user can mend."""
    if isinstance(error, BaseExceptionGroup):
        inner = [_known(e) for e in error.exceptions]
        return None if None in inner else inner[0]
    return error if isinstance(error, KronosStreamError) else None


def _complain(message: str) -> int:
    click.echo(f"kronos-stream: {' '.join(message.split())}", err=True)
    return WRONG


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kronos-stream")
def cli() -> None:
    """Trade ticks to K-lines to Kronos forecasts, over Kafka and Redis."""


@cli.command()
@settings_of(
    flags.STAGE,
    flags.SERVICE,
    flags.FEED,
    flags.BARS,
    flags.MODEL,
    flags.BOTH_SEEDS,
    feed=True,
    paths=True,
)
@for_option
@click.option("--bars", type=click.IntRange(min=1), metavar="N", help="End after N bars a symbol.")
def run(loaded: Loaded, for_s: float | None, bars: int | None) -> int:
    """Feed, bars and forecast in one process.

    Without --kafka and --redis an embedded broker and store start by themselves and a simulated
    market feeds them.
    """
    settings = resolved(loaded.settings)
    _need_symbols(settings, feeds=True)
    if settings.feed.kind == "kafka" and bars is not None:
        raise SettingsError("--bars: expected --feed simulated or replay:FILE with it")
    return _serve(settings, ("feed", "bars", "forecast"), for_s=for_s, bars=bars)


@cli.command()
@settings_of(flags.STAGE, flags.FEED, flags.FEED_SEED, feed=True)
@for_option
@click.option("--bars", type=click.IntRange(min=1), metavar="N", help="End after N bars a symbol.")
def feed(loaded: Loaded, for_s: float | None, bars: int | None) -> int:
    """Write history and ticks to Kafka."""
    settings = _on_kafka(loaded)
    _need_symbols(settings, feeds=True)
    if settings.feed.kind == "kafka" and settings.feed.history is None:
        raise SettingsError(
            "feed.kind: expected --feed simulated, --feed replay:FILE or --history FILE"
        )
    return _serve(settings, ("feed",), for_s=for_s, bars=bars)


@cli.command()
@settings_of(flags.STAGE, flags.BARS, feed=True)
@for_option
@click.option("--ticks", type=FILE, metavar="FILE", help="Off-line: csv, csv.gz or JSON lines.")
@click.option("--out", type=FILE, metavar="FILE", help="Off-line: .parquet, .csv or .jsonl.")
def bars(loaded: Loaded, for_s: float | None, ticks: Path | None, out: Path | None) -> int:
    """Ticks to bars: a service, or --ticks FILE."""
    if ticks is None:
        if out is not None:
            raise SettingsError("--out: expected --ticks FILE with it")
        settings = _on_kafka(loaded, "or off-line --ticks FILE --out FILE")
        _need_symbols(settings, feeds=False)
        return _serve(settings, ("bars",), for_s=for_s, bars=None)
    from .bars.offline import aggregate_file

    listed = loaded.settings.symbols
    symbols = None if listed in ("all", ()) else frozenset(listed)
    summary = aggregate_file(_existing("--ticks", ticks), _out(out), loaded.settings.bars, symbols)
    counts = ", ".join(f"{n} {what}" for what, n in summary.counters.items() if n)
    click.echo(
        f"{summary.ticks} ticks to {summary.bars} bars" + (f" ({counts})" if counts else ""),
        err=True,
    )
    if summary.counters.get("late", 0) > MANY_LATE * summary.ticks:
        click.echo(f"kronos-stream: most ticks are late: is {ticks} in order of time?", err=True)
    return 0


@cli.command()
@settings_of(
    flags.STAGE,
    flags.SERVICE,
    flags.FOLD[:1],
    flags.MODEL,
    flags.FORECAST_SEED,
    feed=True,
    paths=True,
)
@for_option
@click.option("--bars", type=FILE, metavar="FILE", help="Off-line: parquet, csv or JSON lines.")
@click.option("--symbol", metavar="S", help="Off-line: the symbol to forecast.")
@click.option("--out", type=FILE, metavar="FILE", help="Off-line: .parquet, .csv or .jsonl.")
def forecast(
    loaded: Loaded, for_s: float | None, bars: Path | None, symbol: str | None, out: Path | None
) -> int:
    """Bars to forecasts: a service, or --bars FILE."""
    if bars is None:
        for name, value in (("--out", out), ("--symbol", symbol)):
            if value is not None:
                raise SettingsError(f"{name}: expected --bars FILE with it")
        settings = _on_kafka(loaded, "or off-line --bars FILE --symbol S --out FILE")
        _need_symbols(settings, feeds=False)
        return _serve(settings, ("forecast",), for_s=for_s, bars=None)
    if symbol is None:
        raise SettingsError("--symbol: expected the symbol to forecast, with --bars FILE")
    _check_model(loaded.settings)
    bars, out = _existing("--bars", bars), _out(out)
    from .engine.environment import set_defaults

    set_defaults()
    from .forecasts.offline import forecast_file
    from .summary import forecast_line

    click.echo(forecast_line(forecast_file(bars, symbol, loaded.settings, out)), err=True)
    return 0


@cli.command()
@settings_of(flags.SYMBOLS, flags.BROKER, flags.LOGS)
@click.option("--json", "as_json", is_flag=True, help="The records, one JSON object a line.")
@click.option("--from-beginning", is_flag=True, help="From the oldest record that is kept.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N forecasts.")
def subscribe(loaded: Loaded, as_json: bool, from_beginning: bool, count: int | None) -> int:
    """Print forecasts as they come."""
    settings = _on_kafka(loaded, "the address that `kronos-stream run` prints")
    _configure(settings)
    from .signals import stopped_by_signals
    from .subscribe import follow

    async def until_stopped() -> None:
        with stopped_by_signals():
            await follow(
                settings,
                sys.stdout,
                as_json=as_json,
                from_beginning=from_beginning,
                count=count,
            )

    _complete(until_stopped())
    return 0


@cli.command()
@settings_of(
    flags.STAGE,
    flags.SERVICE,
    flags.FEED,
    flags.BARS,
    flags.MODEL,
    flags.BOTH_SEEDS,
    feed=True,
    paths=True,
)
def config(loaded: Loaded) -> int:
    """Print the effective settings as TOML."""
    from .settings_printing import as_toml

    click.echo(as_toml(resolved(loaded.settings), loaded.origins), nl=False)
    return 0


@cli.command()
@settings_of(flags.STAGE, flags.SERVICE[:1], flags.TICKS, feed=True)
def check(loaded: Loaded) -> int:
    """Test connections, topics and clocks; status 1 where something is wrong."""
    settings = _on_kafka(loaded)
    _configure(settings)
    from .checks import findings

    wrong = _complete(findings(settings, lambda line: click.echo(line)))
    for line in wrong:
        click.echo(f"wrong: {line}")
    click.echo(f"{len(wrong)} wrong" if wrong else "all well")
    return 1 if wrong else 0


@cli.command()
@settings_of(flags.STAGE)
@click.option("--create", is_flag=True, help="Create those that are missing.")
def topics(loaded: Loaded, create: bool) -> int:
    """Print how each topic must be, or --create them."""
    from .checks import create_topics, described_topics

    if create:
        settings = _on_kafka(loaded)
        _configure(settings)
        _complete(create_topics(settings, lambda line: click.echo(line)))
        return 0
    for line in described_topics(loaded.settings):
        click.echo(line)
    return 0


@cli.command()
@click.argument("what", type=click.Choice(["bars", "forecasts"]))
@settings_of(flags.STAGE, flags.SERVICE[:1], flags.TICKS)
@click.option("--from", "since", metavar="TIME", help="UTC: 2025-01-31, 2025-01-31T09:30, or ms.")
@click.option("--yes", is_flag=True, help="Do it; else it only says what it would do.")
def reset(loaded: Loaded, what: Literal["bars", "forecasts"], since: str | None, yes: bool) -> int:
    """Forget bars (and their forecasts) or forecasts from a time on, to be made again."""
    settings = _on_kafka(loaded)
    _configure(settings)
    from .reset import reset as forget

    say = (lambda line: click.echo(line)) if yes else (lambda line: click.echo(f"would: {line}"))
    _complete(forget(settings, what, time_ms("--from", since), do=yes, say=say))
    return 0


cli.add_command(evaluate)
cli.add_command(generate)
cli.add_command(train)


def _serve(
    settings: Settings, stages: tuple[str, ...], *, for_s: float | None, bars: int | None
) -> int:
    if "feed" in stages:
        _check_feed(settings)
    if "forecast" in stages:
        _check_model(settings)
    _configure(settings)
    from . import app

    return _complete(app.run(settings, stages=stages, for_s=for_s, bars=bars))


def _complete(task: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(task)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _configure(settings: Settings) -> None:
    from .telemetry import configure

    configure(settings.telemetry)


def _on_kafka(loaded: Loaded, otherwise: str = "") -> Settings:
    """Resolved settings that name a broker."""
    if loaded.settings.kafka.bootstrap is None:
        hint = f", {otherwise}" if otherwise else ""
        raise SettingsError(f"kafka.bootstrap: expected --kafka HOST:PORT{hint}")
    return resolved(loaded.settings)


def _need_symbols(settings: Settings, *, feeds: bool) -> None:
    if not settings.symbols:
        raise SettingsError("symbols: expected --symbols A,B or all, got none")
    if feeds and settings.symbols == "all" and settings.feed.kind == "simulated":
        raise SettingsError("symbols: the simulated feed needs names, --symbols A,B; got all")
    if feeds and settings.symbols == "all" and settings.feed.history is not None:
        raise SettingsError("symbols: --history needs names, --symbols A,B; got all")


def _check_feed(settings: Settings) -> None:
    feed = settings.feed
    if feed.kind == "replay" and feed.file is None:
        raise SettingsError("feed.file: expected --feed replay:FILE")
    if feed.kind == "replay" and not Path(str(feed.file)).is_file():
        raise SettingsError(f"feed.file: expected a ticks file, there is none at {feed.file!r}")
    if feed.history is not None and not Path(feed.history).exists():
        raise SettingsError(
            f"feed.history: expected a bars file or folder, there is none at {feed.history!r}"
        )


def _check_model(settings: Settings) -> None:
    """What can be said before a process is started for the model: a path that does not exist."""
    model, tokenizer = settings.model.model, settings.model.tokenizer
    for key, name in (("model.model", model), ("model.tokenizer", tokenizer)):
        if name is None or name == "builtin" or Path(name).is_dir():
            continue
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise SettingsError(
                f"{key}: expected builtin, a folder or a hub id such as NeoQuasar/Kronos-small, "
                f"got {name!r}"
            )


def _existing(flag: str, path: Path) -> Path:
    if not path.is_file():
        raise SettingsError(f"{flag}: expected a file, there is none at {str(path)!r}")
    return path


def _out(path: Path | None) -> Path:
    if path is None:
        raise SettingsError("--out: expected a FILE ending in .parquet, .csv or .jsonl")
    return path
