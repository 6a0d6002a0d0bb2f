"""The settings of a forecast, resolved against the model's context."""

from typing import Final, Protocol

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


class Trained(Protocol):
    """What a model says of its training."""

    @property
    def interval(self) -> str | None:
        """Of the bars; None: not known."""

    @property
    def fine_head_rotary(self) -> str:
        """How the fine head was trained to be run."""


def doubts(settings: Settings, model: Trained) -> list[str]:
    """What the settings ask of a model that it was not trained for: it runs, but worse."""
    interval, rotary = settings.bars.interval, settings.forecast.fine_head_rotary
    found: list[tuple[str, str | None, str]] = []
    if model.interval not in (None, interval):
        found.append(("bars.interval", model.interval, interval))
    # `upstream` and `none` are run the same.
    if rotary != model.fine_head_rotary and "trained" in (rotary, model.fine_head_rotary):
        found.append(("forecast.fine_head_rotary", model.fine_head_rotary, rotary))
    return [
        f"{key}: expected {own}, for which {settings.model.model} was trained (its config.json), "
        f"got {asked}"
        for key, own, asked in found
    ]


def bars_needed(spec: ForecastSpec) -> int:
    """Bars up to and including the closed one that a forecast may need."""
    return spec.lookback + spec.anchor_every
