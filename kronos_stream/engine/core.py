"""The engine: closed bars in, sampled paths out, and between closes the prefixes of the next ones.

Synchronous and without I/O; the worker process runs it, and the off-line command uses it as it is.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from typing import Final, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import EngineError
from ..model.checkpoints import revision_of
from ..model.features import CLIP, Scale
from ..model.kronos import Kronos
from ..model.sampling import Sampling, uniforms
from ..model.tokenizer import KronosTokenizer
from ..wire.messages import AnchorInfo, ForecastSpec
from .anchors import PRICE_CHANNELS, Bars, NoAnchorError, Span, anchor_of, next_prefix, span_of
from .cache import PrefixCache, Slot
from .messages import EngineReply, EngineRequest, rows
from .prefill import Last, Networks, advance, prefill
from .rollout import rollout

CLOSE: Final = 3


class _Plan(NamedTuple):
    """What one context needs: its prefix (by key) and the bars behind it (one digest each)."""

    symbol: str
    scale: Scale
    z: NDArray[np.float32]
    stamps: NDArray[np.int64]
    prefix: int
    key: bytes
    tail: list[bytes]


def _device(name: str) -> torch.device:
    try:
        one = torch.ones(1, device=name)
        one.item()
        return one.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise EngineError(
            f"model.device: expected a device that torch can use here, got {name!r}: {why}"
        ) from error


class Engine:
    """Refuses a model in training mode: dropout would be on."""

    def __init__(
        self,
        model: Kronos,
        tokenizer: KronosTokenizer,
        spec: ForecastSpec,
        *,
        revision: str | None = None,
        device: str = "cpu",
        cache_bytes: int = 2**31,
    ) -> None:
        if model.training or tokenizer.training:
            raise EngineError("the model is in training mode: call .eval() on both parts first")
        if spec.lookback + max(1, spec.anchor_every) + spec.horizon > model.max_context:
            raise EngineError(
                f"lookback {spec.lookback} + anchor_every {max(1, spec.anchor_every)} + horizon "
                f"{spec.horizon} exceed the model's max_context {model.max_context}: a rolling "
                "cache would only be approximate"
            )
        self.spec = spec
        # The digest is of the weights as loaded, whatever dtype they are run in.
        self.revision = revision or revision_of(model, tokenizer)
        self._device = _device(device)
        model.fine_head_rotary = spec.fine_head_rotary
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[spec.dtype]
        self._nets = Networks(model.to(self._device, dtype), tokenizer.to(self._device))
        self._sampling = Sampling(temperature=spec.temperature, top_k=spec.top_k, top_p=spec.top_p)
        self.cache = PrefixCache(*self._nets, spec, self._device, cache_bytes)
        self._idle: OrderedDict[str, _Plan] = OrderedDict()

    @torch.inference_mode()
    def forecast(
        self, requests: Sequence[EngineRequest], clock: Callable[[], int]
    ) -> list[EngineReply]:
        """One reply a request, in order; `clock` gives wall milliseconds."""
        return [self._forecast(request, clock) for request in requests]

    def prepare(self, requests: Sequence[EngineRequest]) -> None:
        """Queues the prefixes of the bars that follow these."""
        for request in requests:
            self._queue_next(request, _bars(request))

    @torch.inference_mode()
    def step_idle(self) -> bool:
        """One unit of idle work; False where there is none left."""
        while self._idle:
            symbol, plan = next(iter(self._idle.items()))
            if self.cache.has_room_for(symbol):
                slot = self.cache.slot(symbol)
                self._begin(slot, plan)
                if slot.pending is not None:
                    if next(slot.pending, StopIteration) is StopIteration:
                        slot.pending = None
                    return True
            del self._idle[symbol]
        return False

    def _forecast(self, request: EngineRequest, clock: Callable[[], int]) -> EngineReply:
        started = clock()
        bars = _bars(request)
        span = span_of(request.symbol, bars.open_times, request.interval_ms, self.spec)
        self._idle.pop(request.symbol, None)
        try:
            if span is None:
                raise NoAnchorError("lookback_incomplete")
            plan = self._plan(request.symbol, bars, span)
            if not np.isfinite(bars.values[span.start : span.end]).all():
                raise NoAnchorError("non_finite_values")
        except NoAnchorError as error:
            self._queue_next(request, bars)
            return EngineReply(
                forecast_id=request.forecast_id,
                refused=error.reason,
                started_ms=started,
                ended_ms=clock(),
            )
        slot = self.cache.slot(request.symbol)
        last, found = self._complete(slot, plan)
        paths = self._roll(request, bars, plan, slot, last)
        closed = bars.values[-1]
        unclipped = (closed - plan.scale.mean) / (plan.scale.std + plan.scale.floor)
        anchor = AnchorInfo(
            open_time=int(bars.open_times[span.start + self.spec.lookback - 1]),
            length=self.spec.lookback,
            mean=plan.scale.mean.tolist(),
            std=plan.scale.std.tolist(),
        )
        self._queue_next(request, bars)
        return EngineReply(
            forecast_id=request.forecast_id,
            paths=paths.astype("<f8").tobytes(),
            anchor=anchor,
            clipped_share=float((np.abs(unclipped) > CLIP).mean()),
            context_start=span.start,
            cache=found,
            started_ms=started,
            ended_ms=clock(),
        )

    def _roll(
        self, request: EngineRequest, bars: Bars, plan: _Plan, slot: Slot, last: Last
    ) -> NDArray[np.float64]:
        u = torch.from_numpy(uniforms(request.seed, self.spec.paths, self.spec.horizon))
        stamps = torch.from_numpy(bars.stamps[len(bars.values) :])
        z = rollout(
            self._nets,
            slot,
            last,
            len(plan.z),
            u.to(self._device),
            stamps.to(self._device),
            self._sampling,
        )
        paths = plan.scale.restore(z.float().cpu().numpy())
        if self.spec.join == "last_close":
            # The tokenizer misses bar t by a little: without this, all paths start from the miss.
            seen = plan.scale.restore(last.recon.float().cpu().numpy())[CLOSE]
            paths[..., :PRICE_CHANNELS] += bars.values[-1, CLOSE] - seen
        return paths

    def _complete(self, slot: Slot, plan: _Plan) -> tuple[Last, Literal["hit", "extend", "miss"]]:
        """Brings the slot up to the whole context; the last bar is always run anew."""
        found: Literal["hit", "extend", "miss"] = "hit"
        if slot.key != plan.key:
            found = "miss"
        self._begin(slot, plan)
        if slot.pending is not None:
            found = "miss" if found == "miss" else "extend"
            for _ in slot.pending:
                pass
            slot.pending = None
        done = 0
        while (
            done < len(plan.tail) - 1 and slot.tail[done : done + 1] == plan.tail[done : done + 1]
        ):
            done += 1
        if found == "hit" and done < len(plan.tail) - 1:
            found = "extend"
        z, stamps = self._tensors(plan)
        last: Last | None = None
        for i in range(plan.prefix + done, len(plan.z)):
            steps = advance(self._nets, slot, z[i : i + 1], stamps[i : i + 1], i)
            last = _result(steps)
        assert last is not None
        slot.tail = plan.tail
        return last, found

    def _begin(self, slot: Slot, plan: _Plan) -> None:
        """Starts the prefix of `plan`, unless it is there or on its way."""
        if slot.key == plan.key:
            return
        z, stamps = self._tensors(plan)
        slot.forget()
        slot.key = plan.key
        slot.pending = prefill(self._nets, slot, z[: plan.prefix], stamps[: plan.prefix])

    def _tensors(self, plan: _Plan) -> tuple[torch.Tensor, torch.Tensor]:
        z, stamps = torch.from_numpy(plan.z), torch.from_numpy(plan.stamps)
        return z.to(self._device), stamps.to(self._device)

    def _queue_next(self, request: EngineRequest, bars: Bars) -> None:
        span = next_prefix(
            request.symbol,
            bars.open_times,
            request.next_open_time,
            request.interval_ms,
            self.spec,
        )
        if span is None:
            return
        try:
            self._idle[request.symbol] = self._plan(request.symbol, bars, span)
        except NoAnchorError:
            return

    def _plan(self, symbol: str, bars: Bars, span: Span) -> _Plan:
        anchor_rows = slice(span.start, span.start + self.spec.lookback)
        scale = anchor_of(bars.values[anchor_rows], self.spec)
        settled = (self.revision, self.spec.dtype, self.spec.fine_head_rotary)
        digest = hashlib.blake2b(repr(settled).encode(), digest_size=16)
        for part in scale:
            digest.update(part.tobytes())
        chain: list[bytes] = []
        for row in range(span.start, span.end):
            if row == span.split:
                key = digest.digest()
            digest.update(bars.open_times[row].tobytes() + bars.revisions[row].tobytes())
            digest.update(bars.values[row].tobytes() + bars.stamps[row].tobytes())
            if row >= span.split:
                chain.append(digest.digest())
        if span.split == span.end:
            key = digest.digest()
        return _Plan(
            symbol=symbol,
            scale=scale,
            z=scale.normalise(bars.values[span.start : span.end]),
            stamps=bars.stamps[span.start : span.end],
            prefix=span.split - span.start,
            key=key,
            tail=chain,
        )


def _bars(request: EngineRequest) -> Bars:
    return Bars(
        rows(request.open_times, None, "<i8").astype(np.int64),
        rows(request.revisions, None, "<i8").astype(np.int64),
        rows(request.values, 6, "<f8").astype(np.float64),
        rows(request.stamps, 5, "<i8").astype(np.int64),
    )


def _result(steps: Generator[None, None, Last]) -> Last:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return cast(Last, stop.value)
