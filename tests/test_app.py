"""The wiring's own rules."""

import msgspec

from kronos_stream.app import _scope
from kronos_stream.settings import KafkaSettings, Settings
from tests.engine.requests import spec
from tests.forecasts.fake_engine import HELLO


def test_contexts_of_another_bars_topic_are_not_mixed_in() -> None:
    """One Redis, one model, one set of settings, two topic prefixes: offsets of one topic say
    nothing about the other's bars."""
    settings = [Settings(kafka=KafkaSettings(topic_prefix=name)) for name in ("one", "two")]
    first, second = (_scope(s, spec(), HELLO) for s in settings)
    assert first != second
    assert _scope(settings[0], spec(), msgspec.structs.replace(HELLO, device="cuda")) == first
