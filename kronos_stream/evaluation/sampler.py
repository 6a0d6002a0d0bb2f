"""Forecasts at many origins, by the engine and the anchor rule that serve the stream."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..bars.calendar import Calendar
from ..clock import wall_ms
from ..engine.anchors import NoAnchorError, anchor_at, span_of
from ..engine.core import Engine
from ..engine.messages import EngineRequest
from ..engine.spec import bars_needed
from ..forecasts.record import due_forecast
from ..forecasts.repair import repair
from ..model.checkpoints import revision_of
from ..model.kronos import Kronos
from ..model.tokenizer import KronosTokenizer
from ..wire.intervals import INTERVAL_MS
from ..wire.messages import CLOSE, ForecastSpec
from .origins import Origin
from .series import Series

BATCH: Final = 32
"""Origins handed to the engine at once, at least; it rolls out those of different symbols side by
side, so all symbols of an origin time are."""


class Sample(NamedTuple):
    """One origin's sampled futures, or why the engine made none."""

    origin: Origin
    refused: str | None
    paths: NDArray[np.float64]
    """(N, H, 6) as they were sampled: neither joined nor repaired."""
    miss: float
    """What join = last_close adds to every price."""
    last_close: float
    close_mean: float
    close_std: float
    """The anchor's, of the close."""

    def joined(self, join: str) -> NDArray[np.float64]:
        """Repaired candles (N, H, 6) under `join`: what the stream would have published."""
        paths = self.paths
        if join == "last_close":
            paths = paths.copy()
            paths[..., : CLOSE + 1] += self.miss
        return repair(paths, self.last_close).paths


class Sampler:
    """An engine whose paths serve every join; ids and seeds are those of the settings given."""

    def __init__(
        self,
        pair: tuple[Kronos, KronosTokenizer],
        spec: ForecastSpec,
        calendar: Calendar,
        *,
        device: str = "cpu",
        cache_bytes: int = 2**31,
    ) -> None:
        self.spec = spec
        self.revision = revision_of(*pair)
        self._calendar = calendar
        self._engine = Engine(
            *pair,
            msgspec.structs.replace(spec, join="none"),
            revision=self.revision,
            device=device,
            cache_bytes=cache_bytes,
        )

    def request(self, series: Series, row: int) -> EngineRequest:
        """What the stream would ask at the close of the bar in `row`: no later bar is in it."""
        window = series.window(row + 1 - bars_needed(self.spec), row + 1)
        due = due_forecast(window, self.spec, self._calendar, self.revision)
        assert due is not None
        return due.request

    def samples(self, series: Sequence[Series], origins: Sequence[Origin]) -> Iterator[Sample]:
        """The sampled futures of each origin, in order."""
        size = max(BATCH, len(series))
        for start in range(0, len(origins), size):
            batch = origins[start : start + size]
            requests = [self.request(series[origin.series], origin.row) for origin in batch]
            for origin, reply in zip(batch, self._engine.forecast(requests, wall_ms)):
                last_close = float(series[origin.series].values[origin.row, CLOSE])
                if reply.anchor is None:
                    empty = np.empty((0, self.spec.horizon, 6))
                    yield Sample(origin, reply.refused, empty, 0.0, last_close, 0.0, 1.0)
                    continue
                shape = (self.spec.paths, self.spec.horizon, 6)
                yield Sample(
                    origin=origin,
                    refused=None,
                    paths=np.frombuffer(reply.paths, "<f8").reshape(shape),
                    miss=reply.miss,
                    last_close=last_close,
                    close_mean=reply.anchor.mean[CLOSE],
                    close_std=reply.anchor.std[CLOSE],
                )


def refusal(series: Series, row: int, spec: ForecastSpec) -> str | None:
    """Why there can be no forecast at the close of the bar in `row`; None where there can."""
    window = series.window(row + 1 - bars_needed(spec), row + 1)
    span = span_of(window.symbol, window.open_times, INTERVAL_MS[window.interval], spec)
    assert span is not None
    try:
        anchor_at(window.values, span, spec)
    except NoAnchorError as error:
        return error.reason
    return None
