"""From a window to the engine's request, and from its reply to the record: one path for the
stream and the off-line command, so that the same bars give the same record."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from ..bars.calendar import Calendar
from ..context.window import Window
from ..engine.anchors import span_of
from ..engine.messages import EngineHello, EngineReply, EngineRequest
from ..errors import SettingsError
from ..settings import Settings
from ..wire.ids import forecast_id, forecast_seed
from ..wire.intervals import INTERVAL_MS
from ..wire.messages import CHANNELS, CLOSE, ContextInfo, Forecast, ForecastSpec, Timing
from .quantiles import figures
from .repair import repair

NUMBER_BYTES: Final = 25
"""Of one float64 in JSON with its comma, at most."""


class Due(NamedTuple):
    """A forecast to be made: what is asked of the engine, and what the record says beside it."""

    request: EngineRequest
    window: Window
    """The context alone: its first bar is the anchor's first one."""
    spec: ForecastSpec
    step_open_times: list[int]
    expires_at: int
    missing: int

    @property
    def id(self) -> str:
        """The forecast's id."""
        return self.request.forecast_id


def due_forecast(
    window: Window, spec: ForecastSpec, calendar: Calendar, model_revision: str
) -> Due | None:
    """What is due at the window's last bar; None where the lookback is not complete.
    CalendarEndError where the calendar does not know the horizon."""
    interval_ms = INTERVAL_MS[window.interval]
    span = span_of(window.symbol, window.open_times, interval_ms, spec)
    if span is None:
        return None
    context = window.rows(span.start)
    open_time = int(context.open_times[-1])
    first = int(context.open_times[0])
    steps = following(calendar, open_time, spec.horizon)
    identity = (window.symbol, window.interval, open_time, model_revision, spec)
    return Due(
        request=request_of(
            context, spec, calendar, forecast_id(*identity), forecast_seed(*identity)
        ),
        window=context,
        spec=spec,
        step_open_times=steps,
        expires_at=steps[0] + interval_ms,
        missing=max(0, calendar.count_between(first, open_time) - (len(context) - 1)),
    )


def following(calendar: Calendar, open_time: int, steps: int) -> list[int]:
    """The open times of the `steps` intervals that follow in the calendar."""
    times: list[int] = []
    for _ in range(steps):
        open_time = calendar.next_open(open_time)
        times.append(open_time)
    return times


def request_of(
    window: Window, spec: ForecastSpec, calendar: Calendar, identity: str, seed: int
) -> EngineRequest:
    """The engine's request for the window's last bar."""
    steps = following(calendar, int(window.open_times[-1]), spec.horizon)
    times = np.concatenate((window.open_times, np.array(steps, np.int64)))
    return EngineRequest(
        forecast_id=identity,
        symbol=window.symbol,
        interval_ms=INTERVAL_MS[window.interval],
        seed=seed,
        open_times=window.open_times.astype("<i8").tobytes(),
        revisions=window.revisions.astype("<i8").tobytes(),
        values=window.values.astype("<f8").tobytes(),
        stamps=calendar.stamps(times).astype("<i8").tobytes(),
        next_open_time=steps[0],
    )


def build_forecast(
    due: Due,
    reply: EngineReply,
    hello: EngineHello,
    *,
    levels: Sequence[float],
    with_paths: bool,
    timing: Timing,
) -> Forecast:
    """The record of an answered request; the reply must not be a refusal."""
    assert reply.anchor is not None
    window, spec = due.window, due.spec
    last_close = float(window.values[-1, CLOSE])
    sampled = np.frombuffer(reply.paths, "<f8").reshape(spec.paths, spec.horizon, -1)
    repaired = repair(sampled, last_close)
    made = figures(repaired.paths, last_close, levels)
    open_time = int(window.open_times[-1])
    return Forecast(
        id=due.id,
        symbol=window.symbol,
        interval=window.interval,
        open_time=open_time,
        close_time=open_time + INTERVAL_MS[window.interval],
        last_close=last_close,
        step_open_times=due.step_open_times,
        quantile_levels=list(levels),
        quantiles=made.quantiles,
        mean=made.mean,
        p_up=made.p_up,
        volatility_mean=made.volatility_mean,
        volatility_quantiles=made.volatility_quantiles,
        repaired_share=repaired.share,
        context=ContextInfo(
            first_open_time=int(window.open_times[0]),
            last_open_time=open_time,
            length=len(window),
            digest=window.digest(),
            synthetic=int(window.synthetic.sum()),
            incomplete=int((~window.complete).sum()),
            missing=due.missing,
            history=int(window.history.sum()),
            clipped_share=reply.clipped_share,
        ),
        anchor=reply.anchor,
        spec=spec,
        seed=due.request.seed,
        model=hello.model,
        model_revision=hello.model_revision,
        device=hello.device,
        dtype=hello.dtype,
        threads=hello.threads,
        timing=timing,
        expires_at=due.expires_at,
        paths=repaired.paths.tolist() if with_paths else None,
    )


def check_message_size(settings: Settings, spec: ForecastSpec) -> None:
    """SettingsError where a record could exceed the broker's message limit."""
    steps = spec.horizon * len(CHANNELS)
    numbers = steps * (len(settings.forecast.quantile_levels) + 1)
    if settings.publish.paths:
        numbers += steps * spec.paths
    size = 4_096 + NUMBER_BYTES * (numbers + 3 * spec.horizon)
    limit = settings.kafka.max_message_bytes
    if size > limit:
        raise SettingsError(
            f"publish.paths: a record of {spec.paths} paths × {spec.horizon} steps may have "
            f"{size:,} bytes, kafka.max_message_bytes is {limit:,}"
        )
