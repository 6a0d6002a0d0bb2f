"""Bars file → forecast file, without a broker: the very same engine and record as the stream's."""

import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from ..bars.calendar import calendar_for
from ..bars.tables import check_ending, in_sessions, read_bars, write_rows
from ..clock import wall_ms
from ..context.window import Window
from ..engine.core import Engine
from ..engine.loading import load
from ..engine.messages import EngineHello
from ..engine.spec import bars_needed, doubts, resolve_spec
from ..errors import InputError
from ..settings import Settings
from ..wire.messages import Forecast, Timing
from .record import build_forecast, due_forecast

_WAYS_OUT: Final = {
    "tiny_prices": ': a price varies by less than 1e-4; forecast.tiny_prices = "scale" takes it'
}


def forecast_file(bars: Path, symbol: str, settings: Settings, out: Path) -> Forecast:
    """Forecasts at the last bar of `symbol` in a bars file and writes the record to `out`: one
    JSON line, or one row of a parquet or csv table, columns named as the record's fields (nested
    ones as JSON text).

    InputError where the bars do not give a forecast, and why. Bars outside the calendar's sessions
    are left out, which is told on stderr.
    """
    check_ending(out)
    forecast = forecast_of(bars, symbol, settings)
    row: dict[str, Any] = msgspec.to_builtins(forecast)
    if out.suffix != ".jsonl":
        row = {
            name: msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value
            for name, value in row.items()
        }
    write_rows(out, [row], list(row))
    return forecast


def forecast_of(bars: Path, symbol: str, settings: Settings) -> Forecast:
    """The record at the last bar of `symbol` in a bars file."""
    interval = settings.bars.interval
    calendar_name = settings.bars.calendar_name(symbol)
    calendar = calendar_for(settings.bars, symbol)
    read = read_bars(bars, interval, symbol=symbol)[symbol]
    series = in_sessions(read, calendar)
    if len(series) < len(read):
        outside = len(read) - len(series)
        print(
            f"{bars}: {symbol}: {outside} of {len(read)} bars lie outside the sessions of "
            f"{calendar_name} and are left out",
            file=sys.stderr,
        )
    if not series:
        raise InputError(f"{bars}: {symbol}: no bar lies in the sessions of {calendar_name}")
    pair = load(settings.model)
    spec = resolve_spec(settings, pair[0].max_context, calendar_name)
    for doubt in doubts(settings, pair[0]):
        print(doubt, file=sys.stderr)
    engine = Engine(*pair, spec, device=settings.model.device)
    read_ms = wall_ms()
    window = Window.from_bars(series[-bars_needed(spec) :])
    due = due_forecast(window, spec, calendar, engine.revision)
    if due is None:
        raise InputError(
            f"{bars}: {symbol}: lookback_incomplete: expected {bars_needed(spec)} bars or more, "
            f"found {len(series)}"
        )
    if due.missing > settings.context.max_missing_bars:
        raise InputError(
            f"{bars}: {symbol}: too_many_missing_bars: {due.missing} intervals of the context "
            f"have no bar, context.max_missing_bars is {settings.context.max_missing_bars}; "
            f"--set context.max_missing_bars={due.missing} takes them"
        )
    (reply,) = engine.forecast([due.request], wall_ms)
    if reply.refused is not None:
        way_out = _WAYS_OUT.get(reply.refused, "")
        raise InputError(f"{bars}: {symbol}: {reply.refused}: these bars give no forecast{way_out}")
    return build_forecast(
        due,
        reply,
        _hello(settings, engine, pair[0].max_context),
        levels=settings.forecast.quantile_levels,
        with_paths=settings.publish.paths,
        timing=Timing(
            bar_read=read_ms,
            engine_start=reply.started_ms,
            engine_end=reply.ended_ms,
            published=wall_ms(),
        ),
    )


def _hello(settings: Settings, engine: Engine, max_context: int) -> EngineHello:
    import torch

    return EngineHello(
        model=settings.model.model,
        model_revision=engine.revision,
        max_context=max_context,
        device=settings.model.device,
        dtype=settings.model.dtype,
        threads=torch.get_num_threads(),
        cache_bytes=engine.cache.slot_bytes,
        slots=engine.cache.capacity,
    )
