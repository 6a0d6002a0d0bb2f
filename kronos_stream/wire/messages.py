"""Every record on a topic, as a msgspec struct.

Times are integer milliseconds, UTC. A bar is named by its open time. Unknown fields are ignored,
missing ones without a default are rejected. A foreign producer of ticks needs only `symbol`,
`price`, `qty`, `time`.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

CHANNELS: Final = ("open", "high", "low", "close", "volume", "amount")
"""The six channels of a K-line, in the order of every array in this project."""
OPEN, HIGH, LOW, CLOSE, VOLUME, AMOUNT = range(6)
"""Their places."""

# `$` alone would let a line break pass behind it.
Symbol = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[!-~]+$(?!\n)")]
Side = Literal["buy", "sell"]
TimeMs = int


class Tick(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One public trade. `price` and `qty` as decimal strings are exact; numbers are rounded
    half-even to the symbol's scale."""

    symbol: Symbol
    price: str | int | float
    qty: str | int | float
    time: TimeMs
    trade_id: int | None = None
    side: Side | None = None


class Marker(Struct, frozen=True, kw_only=True):
    """Says that event time has reached `marker_time` in the partition that it stands in."""

    marker_time: TimeMs


class Bar(Struct, frozen=True, kw_only=True):
    """A closed K-line of `[open_time, close_time)`.

    `prev_open_time` chains the bars of one symbol: a consumer finds a hole by the chain, not by
    the clock. `flat_run` counts the synthetic bars in a row that end here. `revision` above 0 is a
    correction; `history` marks what did not come from this stream's ticks.
    """

    symbol: Symbol
    interval: str
    open_time: TimeMs
    close_time: TimeMs
    open: float
    high: float
    low: float
    close: float
    volume: float
    amount: float
    trades: int = 0
    first_trade_id: int | None = None
    last_trade_id: int | None = None
    prev_open_time: TimeMs | None = None
    revision: int = 0
    complete: bool = True
    synthetic: bool = False
    flat_run: int = 0
    history: bool = False


class ContextInfo(Struct, frozen=True, kw_only=True):
    """What a forecast saw: bars `[first_open_time, last_open_time]`, the last one being its own."""

    first_open_time: TimeMs
    last_open_time: TimeMs
    length: int
    digest: str
    synthetic: int
    incomplete: int
    missing: int
    """Intervals of the calendar between the first and last bar that have no bar."""
    history: int
    clipped_share: float
    """Share of the last bar's six normalised values that were cut at ±5."""


class AnchorInfo(Struct, frozen=True, kw_only=True):
    """The normalisation of a context: per channel mean and population std over `length` bars."""

    open_time: TimeMs
    """Open time of the anchor's last bar."""
    length: int
    mean: list[float]
    std: list[float]


class Timing(Struct, frozen=True, kw_only=True):
    """Wall-clock milliseconds (UTC) of the stages of one forecast."""

    bar_read: TimeMs
    engine_start: TimeMs
    engine_end: TimeMs
    published: TimeMs
    """When the record was handed to the producer."""


class ForecastSpec(Struct, frozen=True, kw_only=True):
    """All settings that change a forecast's content; its digest is part of the forecast's id."""

    lookback: int
    anchor_every: int
    horizon: int
    paths: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    join: Literal["none", "last_close"]
    tiny_prices: Literal["skip", "scale"]
    fine_head_rotary: Literal["upstream", "trained", "none"]
    gaps: Literal["fill", "skip"]
    calendar: str
    dtype: str


class Forecast(Struct, frozen=True, kw_only=True):
    """Sampled future K-lines of one symbol, made at the close of the bar `open_time`.

    Per-channel tables are `[step][level]` (quantiles) and `[step]` (mean), steps in the order of
    `step_open_times`; channels are open, high, low, close, volume, amount.
    """

    id: str
    symbol: Symbol
    interval: str
    open_time: TimeMs
    close_time: TimeMs
    last_close: float
    step_open_times: list[TimeMs]
    quantile_levels: list[float]
    quantiles: dict[str, list[list[float]]]
    mean: dict[str, list[float]]
    p_up: list[float]
    """P(close of the step > last close), the share of paths."""
    volatility_mean: float
    """Mean over paths of the realised volatility √Σr² of the path's log returns."""
    volatility_quantiles: list[float]
    repaired_share: float
    """Share of the sampled candles whose high, low, volume or amount had to be repaired."""
    context: ContextInfo
    anchor: AnchorInfo
    spec: ForecastSpec
    seed: int
    """Seed of this very forecast, derived from its id and the base seed."""
    model: str
    model_revision: str
    device: str
    dtype: str
    threads: int
    timing: Timing
    expires_at: TimeMs
    """Close time of the next bar: from then on a newer forecast is due."""
    paths: list[list[list[float]]] | None = None
    """All sampled paths `[path][step][channel]`, with `publish.paths`."""


class Skipped(Struct, frozen=True, kw_only=True):
    """A due forecast that was not made, and why (`reason` is a stable snake_case word)."""

    id: str
    symbol: Symbol
    interval: str
    open_time: TimeMs
    reason: str
    detail: str = ""


SCHEMAS: Final[dict[type[Struct], str]] = {
    Tick: "tick/1",
    Marker: "marker/1",
    Bar: "bar/1",
    Forecast: "forecast/1",
    Skipped: "skipped/1",
}
"""The value of the `schema` header of each record."""


def json_schemas() -> dict[str, dict[str, object]]:
    """JSON Schemas of all records, by the name in the `schema` header without its version."""
    return {name.split("/")[0]: msgspec.json.schema(kind) for kind, name in SCHEMAS.items()}
