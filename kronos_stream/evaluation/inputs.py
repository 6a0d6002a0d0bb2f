"""What evaluation and generation begin with: a model, its settings, and bars."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from ..bars.calendar import Calendar, calendar_of
from ..engine.loading import load
from ..engine.spec import doubts, resolve_spec
from ..errors import SettingsError
from ..model.kronos import Kronos
from ..model.tokenizer import KronosTokenizer
from ..settings import Settings
from ..wire.intervals import INTERVAL_MS
from ..wire.messages import ForecastSpec
from .series import Series, read_series


class Opened(NamedTuple):
    """A model and the bars that it is to see."""

    pair: tuple[Kronos, KronosTokenizer]
    spec: ForecastSpec
    calendar: Calendar
    series: list[Series]


def open_inputs(
    settings: Settings, bars: Sequence[Path], symbols: Sequence[str], say: TextIO
) -> Opened:
    """Loads both; errors name what is wrong with either, a line on `say` what is doubtful."""
    pair = load(settings.model)
    name, interval = settings.bars.calendar, settings.bars.interval
    if any(other != name for other in settings.bars.symbol_calendars.values()):
        raise SettingsError(
            "bars.symbol_calendars: expected none here: all symbols share the calendar of a grid"
        )
    calendar = calendar_of(name, INTERVAL_MS[interval])
    spec = resolve_spec(settings, pair[0].max_context, name)
    for doubt in doubts(settings, pair[0]):
        print(doubt, file=say)
    return Opened(pair, spec, calendar, read_series(bars, symbols, interval, calendar))
