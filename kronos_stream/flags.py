"""The flags: each one is a key of the settings under a shorter name."""

import functools
import math
import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from .errors import SettingsError
from .settings_loading import Given, keys, load, unknown
from .wire.foreign import MS_FROM, MS_UNTIL

Command = Callable[..., int]


class Flag(NamedTuple):
    """A flag and the keys that it sets (several where one word says it for all of them)."""

    name: str
    keys: tuple[str, ...]
    metavar: str
    help: str


class Finite(click.FloatRange):
    """click takes nan for a number of any range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value}", param, ctx)
        return number


_INTERVAL: Final = Flag("--interval", ("bars.interval",), "1m|5m|15m|1h", "Length of a bar.")
_CALENDAR: Final = Flag(
    "--calendar", ("bars.calendar",), "NAME", "24/7, or an exchange such as XNYS."
)
_TRADE_KIND: Final = Flag(
    "--trade-kind", ("bars.trade_kind",), "KIND", "Binance payloads: trade or aggTrade."
)
BROKER: Final = (
    Flag("--kafka", ("kafka.bootstrap",), "HOST:PORT", "Kafka to use; none: an embedded one."),
    Flag("--topic-prefix", ("kafka.topic_prefix",), "NAME", "First part of every topic's name."),
    _INTERVAL,
)
LOGS: Final = (
    Flag("--log-level", ("telemetry.log_level",), "LEVEL", "debug, info, warning or error."),
    Flag("--log-format", ("telemetry.log_format",), "FORMAT", "auto, console or json."),
)
SYMBOLS: Final = (Flag("--symbols", ("symbols",), "A,B|all", "Symbols to work on."),)
STAGE: Final = (
    *SYMBOLS,
    *BROKER,
    Flag(
        "--partitions",
        ("kafka.partitions",),
        "N",
        "Of the ticks topic, if it is created on a real Kafka.",
    ),
    Flag("--partitioner", ("kafka.partitioner",), "RULE", "murmur2, crc32 or any."),
    Flag("--group", ("kafka.group",), "NAME", "First part of the consumer groups' names."),
    Flag("--instance-id", ("kafka.instance_id",), "ID", "Static membership: one id a process."),
    Flag("--wire", ("publish.wire",), "json|msgpack", "How records are written."),
    _CALENDAR,
    Flag("--metrics-port", ("telemetry.metrics_port",), "PORT", "Prometheus metrics; 0: none."),
    *LOGS,
)
FEED: Final = (
    Flag(
        "--history",
        ("feed.history",),
        "FILE",
        "Bars (parquet, csv or JSON lines) for cold symbols.",
    ),
    Flag("--speed", ("feed.speed",), "N|max", "Virtual seconds per second of the clock."),
    Flag("--ticks-per-minute", ("feed.ticks_per_minute",), "N", "Of a simulated symbol, mean."),
)
FOLD: Final = (
    Flag("--gaps", ("bars.gaps",), "fill|skip", "Intervals without trades: flat bars or none."),
    Flag("--edges", ("bars.edges",), "drop|keep", "Partial first and last bars."),
    _TRADE_KIND,
)
TICKS: Final = (_TRADE_KIND,)
"""Of commands that only look at ticks."""
BARS: Final = (
    *FOLD,
    Flag("--grace-ms", ("bars.grace_ms",), "MS", "How long a bar waits for late ticks."),
    Flag("--markers", ("bars.markers",), "feed|owner", "Who says that time has passed."),
)
MODEL: Final = (
    Flag("--model", ("model.model",), "NAME", "builtin, a folder, or a hub id."),
    Flag("--tokenizer", ("model.tokenizer",), "NAME", "The tokenizer, where the model has none."),
    Flag("--revision", ("model.revision",), "REV", "Hub revision of the model."),
    Flag("--device", ("model.device",), "DEVICE", "cpu, cuda, cuda:1, ..."),
    Flag("--dtype", ("model.dtype",), "DTYPE", "float32 or bfloat16."),
    Flag("--threads", ("model.threads",), "N", "CPU threads of the engine; 0: all cores."),
    Flag("--max-context", ("model.max_context",), "BARS", "Of the model, where unknown."),
    Flag("--horizon", ("forecast.horizon",), "BARS", "Bars to forecast."),
    Flag("--paths", ("forecast.paths",), "N", "Futures to sample."),
    Flag("--lookback", ("forecast.lookback",), "BARS", "Bars of an anchor."),
    Flag("--anchor-every", ("forecast.anchor_every",), "BARS", "How long an anchor is kept."),
    Flag("--profile", ("forecast.profile",), "NAME", "Sampling: distribution or point."),
    Flag("--temperature", ("forecast.temperature",), "T", "Overrides the profile's."),
    Flag("--top-p", ("forecast.top_p",), "P", "Overrides the profile's."),
    Flag("--top-k", ("forecast.top_k",), "K", "0: all; 1: greedy."),
    Flag("--join", ("forecast.join",), "RULE", "none or last_close."),
)
TABLE: Final = (
    _INTERVAL,
    _CALENDAR,
    Flag("--fine-head-rotary", ("forecast.fine_head_rotary",), "RULE", "upstream, trained, none."),
    Flag("--tiny-prices", ("forecast.tiny_prices",), "skip|scale", "Prices that hardly vary."),
)
"""Of commands that read bars and forecast many times."""
SERVICE: Final = (
    Flag("--redis", ("redis.url",), "URL", "Store of contexts; none: an embedded one."),
    Flag("--shed", ("forecast.shed",), "on|off", "Skip forecasts that are already stale."),
)
FEED_SEED: Final = (Flag("--seed", ("feed.seed",), "N", "Of the simulated market."),)
FORECAST_SEED: Final = (Flag("--seed", ("forecast.seed",), "N", "Base seed of the sampling."),)
BOTH_SEEDS: Final = (
    Flag("--seed", ("feed.seed", "forecast.seed"), "N", "Of the market and of the sampling."),
)


def settings_of(
    *groups: tuple[Flag, ...], feed: bool = False, paths: bool = False
) -> Callable[[Command], Command]:
    """Decorates a command: takes the flags, gives it the `Loaded` settings as first argument.

    `feed` adds --feed KIND[:FILE], `paths` adds --publish-paths.
    """
    flags = {_argument(flag.name): flag for group in groups for flag in group}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(**values: Any) -> int:
            given: dict[str, Given] = {}
            for argument, flag in flags.items():
                text = values.pop(argument)
                if text is not None:
                    given |= {key: Given(text, f"flag {flag.name}") for key in flag.keys}
            given |= _feed(values.pop("feed", None))
            if values.pop("publish_paths", False):
                given["publish.paths"] = Given("true", "flag --publish-paths")
            given |= _set(values.pop("set_"))
            config = values.pop("config")
            loaded = load(
                config=Path(config) if config else None, environment=os.environ, flags=given
            )
            for warning in loaded.warnings:
                click.echo(f"kronos-stream: {warning}", err=True)
            return command(loaded, **values)

        options = [
            click.option("--config", metavar="FILE", help="TOML file (or KRONOS_CONFIG)."),
            click.option(
                "--set", "set_", metavar="KEY=VALUE", multiple=True, help="Any other setting."
            ),
        ]
        if feed:
            what = "Who writes the ticks: kafka (others do), simulated, or replay:FILE."
            options.append(click.option("--feed", metavar="KIND", help=what))
        options += [
            click.option(flag.name, _argument(flag.name), metavar=flag.metavar, help=flag.help)
            for flag in flags.values()
        ]
        if paths:
            what = "Publish all sampled paths."
            options.append(click.option("--publish-paths", is_flag=True, help=what))
        for option in reversed(options):
            option(wrapper)
        return wrapper

    return decorate


def _argument(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")


def _feed(text: str | None) -> dict[str, Given]:
    if text is None:
        return {}
    kind, colon, file = text.partition(":")
    if kind not in ("kafka", "simulated", "replay") or (kind == "replay") != bool(colon and file):
        raise SettingsError(f"--feed: expected kafka, simulated or replay:FILE, got {text!r}")
    given = {"feed.kind": Given(kind, "flag --feed")}
    return given | ({"feed.file": Given(file, "flag --feed")} if file else {})


def _set(pairs: tuple[str, ...]) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--set: expected KEY=VALUE, got {pair!r}")
        if key.strip() not in keys():
            raise SettingsError(f"--set {pair}: {unknown(key.strip(), keys())}")
        given[key.strip()] = Given(value, f"flag --set {key.strip()}")
    return given


def check_bars(paths: Iterable[Path]) -> None:
    """SettingsError where one of them is not there."""
    for path in paths:
        if not path.exists():
            raise SettingsError(
                f"--bars: expected a file or folder, there is none at {str(path)!r}"
            )


def time_ms(flag: str, text: str | None) -> int:
    """Milliseconds, UTC. 20250131 is a day, 2025 nothing: neither is a moment of 1970."""
    if text is not None and text.isascii() and text.isdigit() and len(text) < 16:
        milliseconds = int(text)
        if milliseconds == 0 or MS_FROM <= milliseconds < MS_UNTIL:
            return milliseconds
    try:
        when = datetime.fromisoformat(text or "")
    except ValueError:
        raise SettingsError(
            f"{flag}: expected a time such as 2025-01-31T09:30 (UTC) or milliseconds, got {text!r}"
        ) from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(click.ParamType[float]):
    """Seconds from 90, 60s, 5m or 1h."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", str(value))
        if match is None or float(match[1]) == 0:
            self.fail(f"expected a time above 0 such as 60s, 5m or 1h, got {value!r}", param, ctx)
        return float(match[1]) * UNITS[match[2]]
