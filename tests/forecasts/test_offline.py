"""A bars file to a forecast file: the stream's own record, or why there is none."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch

from kronos_stream.bars.calendar import AlwaysOpen, calendar_of
from kronos_stream.bars.tables import write_bars
from kronos_stream.context.window import Window
from kronos_stream.engine import loading
from kronos_stream.engine.core import Engine
from kronos_stream.engine.spec import resolve_spec
from kronos_stream.errors import InputError, SettingsError
from kronos_stream.forecasts.keep_first import comparable
from kronos_stream.forecasts.offline import forecast_file, forecast_of
from kronos_stream.forecasts.record import due_forecast
from kronos_stream.settings import (
    BarsSettings,
    ContextSettings,
    ForecastSettings,
    ModelSettings,
    PublishSettings,
    Settings,
)
from kronos_stream.wire.messages import Bar, Forecast
from tests.engine.requests import tiny_pair
from tests.samples import START_MS, STEP_MS, bar
from tests.threads import threads

LOOKBACK = 24
SMALL = ForecastSettings(lookback=LOOKBACK, horizon=3, paths=4)


def _settings(**forecast: Any) -> Settings:
    return Settings(forecast=msgspec.structs.replace(SMALL, **forecast))


def _series(n: int, scale: float = 1.0, symbol: str = "AAA") -> list[Bar]:
    rng = np.random.default_rng(5)
    closes = scale * 100 * np.exp(np.cumsum(rng.normal(0, 0.002, n + 1)))
    return [
        bar(
            symbol,
            i,
            open=closes[i],
            close=closes[i + 1],
            high=max(closes[i : i + 2]) * 1.001,
            low=min(closes[i : i + 2]) * 0.999,
            volume=float(rng.uniform(1, 9)),
            amount=float(rng.uniform(100, 900)),
        )
        for i in range(n)
    ]


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model that loads at once; its context is 128 bars, and one thread is enough for it."""
    monkeypatch.setattr(loading, "load_pair", lambda *args, **options: tiny_pair())
    with threads(1):
        yield


@pytest.fixture
def written(tmp_path: Path) -> Callable[[list[Bar]], Path]:
    def write(bars: list[Bar]) -> Path:
        write_bars(tmp_path / "bars.parquet", bars)
        return tmp_path / "bars.parquet"

    return write


Written = Callable[[list[Bar]], Path]


def test_the_record_is_that_of_the_same_bars_and_settings(written: Written) -> None:
    series = _series(40)
    made = forecast_of(written(series), "AAA", _settings())
    spec = resolve_spec(_settings(), 128, "24/7")
    engine = Engine(*tiny_pair(), spec)
    due = due_forecast(Window.from_bars(series), spec, AlwaysOpen(STEP_MS), engine.revision)
    assert due is not None
    assert (made.id, made.seed, made.spec) == (due.id, due.request.seed, spec)
    assert made.model_revision == engine.revision
    assert made.context.digest == due.window.digest()
    assert made.context.length == LOOKBACK + 1
    (reply,) = engine.forecast([due.request], lambda: 0)
    paths = np.frombuffer(reply.paths, "<f8").reshape(4, 3, 6)
    median = np.quantile(paths[..., 3], 0.5, axis=0).tolist()
    assert [row[3] for row in made.quantiles["close"]] == median


def test_older_bars_and_other_symbols_change_nothing(written: Written) -> None:
    series = _series(60)
    whole = forecast_of(written([*series, *_series(50, symbol="BBB")]), "AAA", _settings())
    short = forecast_of(written(series[-LOOKBACK - 1 :]), "AAA", _settings())
    assert comparable(whole) == comparable(short)


def test_it_is_the_last_bars_forecast_and_in_time_order(written: Written) -> None:
    series = _series(40)
    made = forecast_of(written(series[::-1]), "AAA", _settings())
    assert made.open_time == series[-1].open_time
    assert made.last_close == series[-1].close
    timing = made.timing
    assert timing.bar_read <= timing.engine_start <= timing.engine_end <= timing.published


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
def test_the_file_holds_the_record(written: Written, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"forecast{ending}"
    settings = msgspec.structs.replace(_settings(), publish=PublishSettings(paths=True))
    made = forecast_file(written(_series(40)), "AAA", settings, out)
    assert made.paths is not None
    if ending == ".jsonl":
        assert msgspec.json.decode(out.read_bytes(), type=Forecast) == made
        return
    frame = pd.read_parquet(out) if ending == ".parquet" else pd.read_csv(out)
    (row,) = frame.to_dict("records")
    assert list(row) == list(Forecast.__struct_fields__)
    nested = {k: json.loads(v) for k, v in row.items() if str(v)[:1] in ("{", "[")}
    assert msgspec.convert(row | nested, Forecast, strict=False) == made


@pytest.mark.parametrize(("anchor_every", "needed"), [(0, 24), (1, 25), (4, 28)])
def test_a_short_series_is_told_with_what_is_needed(
    written: Written, anchor_every: int, needed: int
) -> None:
    settings = _settings(anchor_every=anchor_every)
    told = rf"bars\.parquet: AAA: lookback_incomplete: expected {needed} bars or more, found 20"
    with pytest.raises(InputError, match=told):
        forecast_of(written(_series(20)), "AAA", settings)
    assert forecast_of(written(_series(needed)), "AAA", settings).context.length <= needed


def test_too_many_missing_bars_are_told(written: Written) -> None:
    series = _series(60)
    path = written([*series[:-20], *series[-7:]])
    told = "too_many_missing_bars: 13 intervals .* context.max_missing_bars is 12"
    with pytest.raises(InputError, match=rf"bars\.parquet: AAA: {told}"):
        forecast_of(path, "AAA", _settings())
    loose = msgspec.structs.replace(_settings(), context=ContextSettings(max_missing_bars=13))
    assert forecast_of(path, "AAA", loose).context.missing == 13


def test_tiny_prices_are_told_with_the_way_out(written: Written) -> None:
    path = written(_series(40, scale=1e-6))
    told = r"bars\.parquet: AAA: tiny_prices: .*forecast\.tiny_prices.*scale"
    with pytest.raises(InputError, match=told):
        forecast_of(path, "AAA", _settings())
    made = forecast_of(path, "AAA", _settings(tiny_prices="scale"))
    assert 0 < made.quantiles["close"][0][3] < 1e-3


def test_flat_bars_are_told(written: Written) -> None:
    flat = [bar("AAA", i, open=5.0, high=5.0, low=5.0, close=5.0) for i in range(40)]
    with pytest.raises(InputError, match=r"bars\.parquet: AAA: flat_anchor: these bars give no"):
        forecast_of(written(flat), "AAA", _settings())


def test_an_unknown_symbol_is_told(written: Written) -> None:
    with pytest.raises(InputError, match=r"bars\.parquet: expected bars of BBB, found AAA"):
        forecast_of(written(_series(40)), "BBB", _settings())


def test_the_name_of_the_output_is_checked_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"forecast\.txt: expected a name that ends in"):
        forecast_file(tmp_path / "none.csv", "AAA", _settings(), tmp_path / "forecast.txt")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (_settings(lookback=125), r"forecast\.lookback: .* max_context 128"),
        (
            msgspec.structs.replace(_settings(), model=ModelSettings(max_context=20)),
            r"forecast\.lookback: .* max_context 20",
        ),
        (
            msgspec.structs.replace(_settings(), bars=BarsSettings(calendar="XNOWHERE")),
            r"bars\.calendar: expected 24/7 or a name .* got 'XNOWHERE'",
        ),
    ],
)
def test_settings_that_cannot_be_are_told(written: Written, settings: Settings, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        forecast_of(written(_series(40)), "AAA", settings)


def test_threads_are_set_and_said(written: Written) -> None:
    settings = msgspec.structs.replace(_settings(), model=ModelSettings(threads=2))
    with threads(torch.get_num_threads()):
        assert forecast_of(written(_series(40)), "AAA", settings).threads == 2
        assert torch.get_num_threads() == 2


def test_bars_outside_the_sessions_are_left_out(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calendar = calendar_of("XNYS", STEP_MS)
    times = [calendar.next_open(START_MS)]
    while len(times) < 84:
        times.append(calendar.next_open(times[-1]))
    series = [
        msgspec.structs.replace(one, open_time=time, close_time=time + STEP_MS)
        for one, time in zip(_series(84), times, strict=True)
    ]
    closed = [t + STEP_MS for t in times if not calendar.is_open(t + STEP_MS)]
    assert closed
    after = [
        msgspec.structs.replace(series[0], open_time=t, close_time=t + STEP_MS) for t in closed
    ]
    settings = msgspec.structs.replace(_settings(), bars=BarsSettings(calendar="XNYS"))
    alone = forecast_of(written(series), "AAA", settings)
    assert capsys.readouterr().err == ""
    made = forecast_of(written([*series, *after]), "AAA", settings)
    assert comparable(made) == comparable(alone)
    told = f"{len(after)} of {84 + len(after)} bars lie outside the sessions of XNYS"
    assert told in capsys.readouterr().err


def test_bars_all_of_which_lie_outside_the_sessions_are_told(written: Written) -> None:
    settings = msgspec.structs.replace(_settings(), bars=BarsSettings(calendar="XNYS"))
    # New Year's Day.
    with pytest.raises(InputError, match="AAA: no bar lies in the sessions of XNYS"):
        forecast_of(written(_series(40)), "AAA", settings)
