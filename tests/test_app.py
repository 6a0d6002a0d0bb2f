"""The wiring's own rules."""

import asyncio
import math
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from kronos_stream import app
from kronos_stream.app import _done, _read_history, _scope, _stop
from kronos_stream.bars.calendar import calendar_of
from kronos_stream.bars.tables import write_bars
from kronos_stream.errors import BrokerError
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


async def test_only_its_own_time_ends_a_run_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async def times_out(*_: object) -> None:
        raise TimeoutError("of something inside")

    async def serves(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(app, "spare_the_collector", lambda: None)
    monkeypatch.setattr(app, "_serve", times_out)
    with pytest.raises(TimeoutError, match="something inside"):
        await app.run(Settings(), stages=(), for_s=3600, bars=None)
    monkeypatch.setattr(app, "_serve", serves)
    assert await app.run(Settings(), stages=(), for_s=0, bars=None) == 0


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


class _Topics:
    """Two topics that grow as the stages work."""

    ticks, bars = "ticks", "bars"

    def __init__(self) -> None:
        self.topics = self
        self.ends = {"ticks": 5, "bars": 2}

    async def partitions(self, topic: str) -> int:
        return 1

    async def end_offsets(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, self.ends[topic])


class _Stage:
    """Deals with a record whenever it is looked at; what it sends is there once it flushes."""

    waits_for = None

    def __init__(self, topics: _Topics, reads: str, writes: str | None = None) -> None:
        self._topics, self._reads, self._writes = topics, reads, writes
        self.at = 0

    def positions(self) -> dict[int, int]:
        self.at = min(self.at + 1, self._topics.ends[self._reads])
        return {0: self.at}

    def trouble(self) -> None:
        return None

    async def flush(self) -> None:
        if self._writes is not None:
            self._topics.ends[self._writes] += self.at


async def test_a_run_ends_once_the_bars_of_its_ticks_are_forecast_whoever_wrote_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kronos_stream.drain.EVERY_S", 0.0)
    topics = _Topics()
    bars, forecasts = _Stage(topics, "ticks", "bars"), _Stage(topics, "bars")
    await _done(topics, bars, forecasts, math.inf)  # type: ignore[arg-type]
    assert (bars.at, forecasts.at) == (5, 7)


async def test_a_stage_that_fails_while_it_stops_leaves_no_other_running() -> None:
    ended: list[str] = []

    async def stage(name: str, error: Exception | None) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)
            if error is not None:
                raise error

    tasks = {
        name: asyncio.create_task(stage(name, error))
        for name, error in (("beat", None), ("forecast", None), ("bars", BrokerError("gone")))
    }
    await asyncio.sleep(0)
    with pytest.raises(BrokerError, match="gone"):
        await _stop(tasks)
    assert ended == ["bars", "forecast", "beat"]
