"""The wiring's own rules."""

from pathlib import Path

import msgspec

from kronos_stream.app import _read_history, _scope
from kronos_stream.bars.calendar import calendar_of
from kronos_stream.bars.tables import write_bars
from kronos_stream.settings import BarsSettings, KafkaSettings, Settings
from tests.engine.requests import spec
from tests.forecasts.fake_engine import HELLO
from tests.samples import STEP_MS, bar


def test_contexts_of_another_bars_topic_are_not_mixed_in() -> None:
    """One Redis, one model, one set of settings, two topic prefixes: offsets of one topic say
    nothing about the other's bars."""
    settings = [Settings(kafka=KafkaSettings(topic_prefix=name)) for name in ("one", "two")]
    first, second = (_scope(s, spec(), HELLO) for s in settings)
    assert first != second
    assert _scope(settings[0], spec(), msgspec.structs.replace(HELLO, device="cuda")) == first


def test_history_outside_a_symbols_sessions_is_left_out(tmp_path: Path) -> None:
    """Else a context would hold bars that the stream never makes."""
    path = tmp_path / "AAA.csv"
    bars = [bar("AAA", i) for i in range(7 * 288)]
    write_bars(path, bars)
    settings = Settings(bars=BarsSettings(symbol_calendars={"AAA": "XNYS"}))
    calendar = calendar_of("XNYS", STEP_MS)
    kept = [one.open_time for one in bars if calendar.is_open(one.open_time)]
    assert 78 < len(kept) < len(bars)
    assert [one.open_time for one in _read_history(settings, path, "AAA")] == kept
    assert len(_read_history(Settings(), path, "AAA")) == len(bars)
