"""The settings of a forecast, resolved against the model's context."""

from typing import Final

from ..errors import SettingsError
from ..settings import Settings
from ..wire.messages import ForecastSpec

MAX_LOOKBACK: Final = 400
PROFILES: Final = {"distribution": (1.0, 1.0), "point": (0.6, 0.9)}
"""Temperature and top_p of the named sampling profiles."""


def resolve_spec(settings: Settings, max_context: int, calendar: str) -> ForecastSpec:
    """Defaults filled in; SettingsError where context and horizon do not fit the model, because a
    rolling cache would only be approximate."""
    f = settings.forecast
    epoch = max(1, f.anchor_every)
    room = max_context - f.horizon - epoch
    if room < 2:
        raise SettingsError(
            f"forecast.horizon: horizon {f.horizon} + anchor_every {epoch} leave no room for a "
            f"lookback of 2 or more in the model's max_context {max_context}"
        )
    lookback = f.lookback if f.lookback is not None else min(MAX_LOOKBACK, room)
    if lookback < 2 or lookback > room:
        raise SettingsError(
            f"forecast.lookback: lookback {lookback} + anchor_every {epoch} + horizon "
            f"{f.horizon} must be at most the model's max_context {max_context} (lookback 2 to "
            f"{room})"
        )
    temperature, top_p = PROFILES[f.profile]
    return ForecastSpec(
        lookback=lookback,
        anchor_every=f.anchor_every,
        horizon=f.horizon,
        paths=f.paths,
        temperature=f.temperature if f.temperature is not None else temperature,
        top_k=f.top_k,
        top_p=f.top_p if f.top_p is not None else top_p,
        seed=f.seed,
        join=f.join,
        tiny_prices=f.tiny_prices,
        fine_head_rotary=f.fine_head_rotary,
        gaps=settings.bars.gaps,
        calendar=calendar,
        dtype=settings.model.dtype,
    )


def bars_needed(spec: ForecastSpec) -> int:
    """Bars up to and including the closed one that a forecast may need."""
    return spec.lookback + spec.anchor_every
