"""Records as the pipeline writes them, for tests that only need one."""

import msgspec

from kronos_stream.wire.ids import forecast_id, forecast_seed
from kronos_stream.wire.messages import (
    CHANNELS,
    AnchorInfo,
    Bar,
    ContextInfo,
    Forecast,
    ForecastSpec,
    Timing,
)

START_MS = 1_735_689_600_000
STEP_MS = 300_000
LEVELS = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95]
SPEC = ForecastSpec(
    lookback=64,
    anchor_every=1,
    horizon=3,
    paths=20,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    seed=7,
    join="last_close",
    tiny_prices="skip",
    fine_head_rotary="upstream",
    gaps="fill",
    calendar="24/7",
    dtype="float32",
)


def bar(symbol: str = "BTCUSDT", index: int = 0, **changes: object) -> Bar:
    """The bar number `index` of a symbol."""
    open_time = START_MS + index * STEP_MS
    made = Bar(
        symbol=symbol,
        interval="5m",
        open_time=open_time,
        close_time=open_time + STEP_MS,
        open=93_400.0,
        high=93_450.0,
        low=93_390.0,
        close=93_412.1,
        volume=12.5,
        amount=1_167_651.25,
        trades=290,
    )
    return msgspec.structs.replace(made, **changes)


def forecast(symbol: str = "BTCUSDT", index: int = 0, last_close: float = 93_412.1) -> Forecast:
    """A forecast at the close of the bar number `index`; its bands widen by the step."""
    open_time = START_MS + index * STEP_MS
    identity = (symbol, "5m", open_time, "0" * 16, SPEC)
    steps = range(1, SPEC.horizon + 1)
    table = [[last_close * (1 + 0.001 * k * (level - 0.5)) for level in LEVELS] for k in steps]
    return Forecast(
        id=forecast_id(*identity),
        symbol=symbol,
        interval="5m",
        open_time=open_time,
        close_time=open_time + STEP_MS,
        last_close=last_close,
        step_open_times=[open_time + k * STEP_MS for k in steps],
        quantile_levels=LEVELS,
        quantiles=dict.fromkeys(CHANNELS, table),
        mean=dict.fromkeys(CHANNELS, [last_close] * SPEC.horizon),
        p_up=[0.5, 0.55, 0.6],
        volatility_mean=0.002,
        volatility_quantiles=[0.001 * k for k in range(1, len(LEVELS) + 1)],
        repaired_share=0.1,
        context=ContextInfo(
            first_open_time=open_time - SPEC.lookback * STEP_MS,
            last_open_time=open_time,
            length=SPEC.lookback + 1,
            digest="0" * 32,
            synthetic=0,
            incomplete=0,
            missing=0,
            history=SPEC.lookback,
            clipped_share=0.0,
        ),
        anchor=AnchorInfo(
            open_time=open_time - STEP_MS,
            length=SPEC.lookback,
            mean=[last_close] * 4 + [10.0, 1e6],
            std=[50.0] * 4 + [2.0, 2e5],
        ),
        spec=SPEC,
        seed=forecast_seed(*identity),
        model="builtin",
        model_revision="0" * 16,
        device="cpu",
        dtype="float32",
        threads=2,
        timing=Timing(bar_read=1, engine_start=2, engine_end=3, published=4),
        expires_at=open_time + 2 * STEP_MS,
    )
