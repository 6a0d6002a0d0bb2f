"""An engine without a model: paths that are a function of the request, as the real one's are."""

from collections.abc import Callable, Sequence

import numpy as np

from kronos_stream.engine.messages import EngineHello, EngineReply, EngineRequest
from kronos_stream.wire.messages import AnchorInfo, ForecastSpec

HELLO = EngineHello(
    model="fake",
    model_revision="f" * 32,
    max_context=64,
    device="cpu",
    dtype="float32",
    threads=1,
    cache_bytes=0,
    slots=0,
)


class FakeEngine:
    """Counts its batches; `step` is a point at which the process may die."""

    def __init__(self, spec: ForecastSpec, step: Callable[[str], None] = lambda name: None) -> None:
        self._spec = spec
        self._step = step
        self.batches: list[list[str]] = []
        self.prepared: list[str] = []

    async def forecast(self, requests: Sequence[EngineRequest]) -> list[EngineReply]:
        self._step("engine")
        self.batches.append([r.symbol for r in requests])
        replies = [self._reply(r) for r in requests]
        self._step("engine_done")
        return replies

    async def prepare(self, requests: Sequence[EngineRequest]) -> None:
        self.prepared += [r.symbol for r in requests]

    def _reply(self, request: EngineRequest) -> EngineReply:
        values = np.frombuffer(request.values, "<f8").reshape(-1, 6)
        rng = np.random.default_rng(request.seed)
        shape = (self._spec.paths, self._spec.horizon, 6)
        paths = values[-1] * np.exp(rng.normal(0, 0.01, shape)) * values.mean() / values.mean()
        return EngineReply(
            forecast_id=request.forecast_id,
            paths=paths.astype("<f8").tobytes(),
            anchor=AnchorInfo(open_time=0, length=len(values) - 1, mean=[0.0] * 6, std=[1.0] * 6),
        )
