"""What the consumer's process and the engine process say to each other: msgspec frames.

Arrays travel as raw little-endian bytes; shapes are given with each field.
"""

from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..wire.messages import AnchorInfo, ForecastSpec

MAX_FRAME: Final = 2**30
"""Bytes of one frame, at most: neither process reads a longer one."""


class EngineRequest(Struct, frozen=True, kw_only=True):
    """One symbol's closed bar with the bars before it: n rows, the last one is the bar."""

    forecast_id: str
    symbol: str
    interval_ms: int
    seed: int
    open_times: bytes
    """(n,) int64, ms."""
    revisions: bytes
    """(n,) int64."""
    values: bytes
    """(n, 6) float64: open, high, low, close, volume, amount."""
    stamps: bytes
    """(n + horizon, 5) int64: minute, hour, weekday, day, month of each open time."""
    next_open_time: int
    """Open time of the bar that follows, for which the next anchor is prepared."""


class EngineReply(Struct, frozen=True, kw_only=True):
    """The sampled paths of one request, or why there are none."""

    forecast_id: str
    refused: str | None = None
    """A stable word: lookback_incomplete, flat_anchor, tiny_prices, non_finite_values."""
    paths: bytes = b""
    """(paths, horizon, 6) float64 in the channels' units, joined but not repaired."""
    miss: float = 0.0
    """The last close less its reconstruction: join = last_close adds it to every price, none does
    not, so that paths of the one are paths of the other."""
    anchor: AnchorInfo | None = None
    clipped_share: float = 0.0
    context_start: int = 0
    """The request's row at which the context begins."""
    cache: Literal["hit", "extend", "miss"] = "miss"
    started_ms: int = 0
    ended_ms: int = 0


class EngineHello(Struct, frozen=True, kw_only=True):
    """What the engine runs, once it is ready."""

    model: str
    model_revision: str
    max_context: int
    device: str
    dtype: str
    threads: int
    cache_bytes: int
    """Memory of one symbol's slot."""
    slots: int
    """Symbols that the cache's budget holds."""
    kernels: str = "torch"
    """What does its small steps: `compiled`, or torch, and why."""
    interval: str | None = None
    """Of the bars that the model was trained on, where it says so."""
    fine_head_rotary: str = "upstream"
    """By which it was trained."""


class EngineConfig(Struct, frozen=True, kw_only=True):
    """Everything that the engine process is started with."""

    model: str
    tokenizer: str | None
    revision: str | None
    device: str
    dtype: Literal["float32", "bfloat16"]
    threads: int
    native: bool
    max_context: int | None
    cache_bytes: int


class Load(Struct, frozen=True, tag=True):
    """Load this model and say hello."""

    config: EngineConfig


class Configure(Struct, frozen=True, tag=True):
    """Forecast with these settings from now on."""

    spec: ForecastSpec


class Forecasts(Struct, frozen=True, tag=True):
    """Forecast these; `prepare` only warms the prefixes for the bars that follow them."""

    requests: list[EngineRequest]
    prepare: bool = False


class Hello(Struct, frozen=True, tag=True):
    """The model is loaded."""

    hello: EngineHello


class Replies(Struct, frozen=True, tag=True):
    """The answers to one `Forecasts`, in its order (empty where it only prepared)."""

    replies: list[EngineReply]


class Refused(Struct, frozen=True, tag=True):
    """Settings that can never work; the engine ends."""

    error: str


Order = Load | Configure | Forecasts
Answer = Hello | Replies | Refused


def rows(data: bytes, width: int | None, dtype: str) -> NDArray[np.generic]:
    """The array (n,) or (n, width) in `data`, read-only."""
    flat = np.frombuffer(data, dtype=dtype)
    return flat if width is None else flat.reshape(-1, width)
