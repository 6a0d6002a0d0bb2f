"""Settings resolved against a model's context."""

from typing import Any

import msgspec
import pytest

from kronos_stream.engine.core import Engine
from kronos_stream.engine.spec import bars_needed, doubts, resolve_spec
from kronos_stream.errors import EngineError, SettingsError
from kronos_stream.settings import Settings
from kronos_stream.wire.messages import ForecastSpec

from .requests import spec, tiny_pair


def settings(**forecast: Any) -> Settings:
    return msgspec.convert({"forecast": forecast}, Settings)


def resolved(max_context: int = 512, **forecast: Any) -> ForecastSpec:
    return resolve_spec(settings(**forecast), max_context, "24/7")


@pytest.mark.parametrize(
    ("max_context", "forecast", "lookback"),
    [
        (512, {}, 400),
        (2_048, {}, 400),
        (256, {}, 256 - 12 - 1),
        (256, {"anchor_every": 0}, 256 - 12 - 1),
        (256, {"anchor_every": 16, "horizon": 24}, 256 - 24 - 16),
        (413, {}, 400),
        (412, {}, 399),
        (512, {"lookback": 499}, 499),
        (15, {}, 2),
    ],
)
def test_lookback(max_context: int, forecast: dict[str, Any], lookback: int) -> None:
    assert resolved(max_context, **forecast).lookback == lookback


@pytest.mark.parametrize("anchor_every", [0, 1, 4, 16])
def test_lookback_epoch_and_horizon_fill_the_context_at_most(anchor_every: int) -> None:
    epoch = max(1, anchor_every)
    longest = 100 - epoch - 12
    given = {"anchor_every": anchor_every, "horizon": 12}
    fits = resolved(100, lookback=longest, **given)
    assert (fits.lookback, fits.anchor_every) == (longest, anchor_every)
    with pytest.raises(SettingsError) as caught:
        resolved(100, lookback=longest + 1, **given)
    message = str(caught.value)
    assert message.startswith(f"forecast.lookback: lookback {longest + 1} ")
    assert "max_context 100" in message
    assert f"2 to {longest}" in message


@pytest.mark.parametrize("anchor_every", [0, 1, 4, 16])
def test_the_engine_refuses_what_does_not_fit_by_the_same_rule(anchor_every: int) -> None:
    pair = tiny_pair()
    longest = pair[0].max_context - max(1, anchor_every) - 5
    Engine(*pair, spec(lookback=longest, anchor_every=anchor_every), cache_bytes=2**20)
    with pytest.raises(EngineError, match="exceed the model's max_context 128"):
        Engine(*pair, spec(lookback=longest + 1, anchor_every=anchor_every), cache_bytes=2**20)


def test_a_lookback_of_one_bar_has_no_scale() -> None:
    with pytest.raises(SettingsError, match=r"forecast.lookback: lookback 1 "):
        resolved(lookback=1)


@pytest.mark.parametrize("forecast", [{"horizon": 510}, {"anchor_every": 499}, {"horizon": 9_999}])
def test_no_room_for_a_lookback_names_the_horizon(forecast: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"forecast.horizon: .* leave no room for a lookback"):
        resolved(**forecast)


@pytest.mark.parametrize(
    ("forecast", "temperature", "top_p"),
    [
        ({}, 1.0, 1.0),
        ({"profile": "point"}, 0.6, 0.9),
        ({"profile": "point", "temperature": 0.8}, 0.8, 0.9),
        ({"profile": "point", "top_p": 1.0}, 0.6, 1.0),
        ({"temperature": 1.2, "top_p": 0.5}, 1.2, 0.5),
    ],
)
def test_a_profile_gives_what_is_not_set(
    forecast: dict[str, Any], temperature: float, top_p: float
) -> None:
    found = resolved(**forecast)
    assert (found.temperature, found.top_p) == (temperature, top_p)


def test_everything_else_is_taken_over() -> None:
    given = msgspec.convert(
        {
            "forecast": {
                "horizon": 3, "paths": 5, "lookback": 60, "anchor_every": 2, "top_k": 9,
                "seed": 13, "join": "none", "tiny_prices": "scale", "fine_head_rotary": "none",
            },
            "bars": {"gaps": "skip"},
            "model": {"dtype": "bfloat16"},
        },
        Settings,
    )  # fmt: skip
    assert resolve_spec(given, 512, "XNYS") == ForecastSpec(
        lookback=60,
        anchor_every=2,
        horizon=3,
        paths=5,
        temperature=1.0,
        top_k=9,
        top_p=1.0,
        seed=13,
        join="none",
        tiny_prices="scale",
        fine_head_rotary="none",
        gaps="skip",
        calendar="XNYS",
        dtype="bfloat16",
    )


@pytest.mark.parametrize(("anchor_every", "bars"), [(0, 24), (1, 25), (4, 28), (16, 40)])
def test_bars_needed(anchor_every: int, bars: int) -> None:
    assert bars_needed(spec(lookback=24, anchor_every=anchor_every)) == bars


@pytest.mark.parametrize(
    ("trained", "asked", "keys"),
    [
        ((None, "upstream"), ("1m", "none"), []),
        (("5m", "upstream"), ("5m", "upstream"), []),
        (("5m", "none"), ("1m", "upstream"), ["bars.interval"]),
        (("5m", "trained"), ("5m", "none"), ["forecast.fine_head_rotary"]),
        (("1h", "none"), ("15m", "trained"), ["bars.interval", "forecast.fine_head_rotary"]),
    ],
)
def test_what_a_model_was_not_trained_for(
    trained: tuple[str | None, str], asked: tuple[str, str], keys: list[str]
) -> None:
    model, _ = tiny_pair(interval=trained[0], fine_head_rotary=trained[1])
    changes = {"bars": {"interval": asked[0]}, "forecast": {"fine_head_rotary": asked[1]}}
    found = doubts(msgspec.convert(changes, Settings), model)
    assert [doubt.partition(":")[0] for doubt in found] == keys
    assert all("for which builtin was trained (its config.json), got" in doubt for doubt in found)
