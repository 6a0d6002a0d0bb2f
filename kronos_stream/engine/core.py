"""The engine: closed bars in, sampled paths out, and between closes the prefixes of the next ones.

Synchronous and without I/O; the worker process runs it, and the off-line command uses it as it is.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import EngineError
from ..model.checkpoints import revision_of
from ..model.features import CLIP
from ..model.kronos import Kronos
from ..model.sampling import Sampling, uniforms
from ..model.tokenizer import KronosTokenizer
from ..wire.messages import AnchorInfo, ForecastSpec
from .anchors import PRICE_CHANNELS, Bars, NoAnchorError
from .attention import Lane
from .cache import MAX_CHUNK, PrefixCache, Slot
from .messages import EngineReply, EngineRequest
from .networks import Networks
from .plans import Plan, Planner, bars_of
from .prefill import Last, advance, prefill
from .rollout import Suffixes, rollout

CLOSE: Final = 3
GROUP_ROWS: Final = 256
"""Paths rolled out side by side, about: enough that products run at full speed, and few enough
that what they pass on stays in the processor's cache."""


class _Close(NamedTuple):
    """A request that gives a forecast, and where its answer belongs."""

    place: int
    request: EngineRequest
    bars: Bars
    plan: Plan


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

    @torch.inference_mode()
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
        longest = spec.lookback + max(1, spec.anchor_every) + spec.horizon
        if longest > model.max_context:
            raise EngineError(
                f"lookback {spec.lookback} + anchor_every {max(1, spec.anchor_every)} + horizon "
                f"{spec.horizon} exceed the model's max_context {model.max_context}: a rolling "
                "cache would only be approximate"
            )
        self.spec = spec
        # The digest is of the weights as loaded, whatever dtype they are run in.
        self.revision = revision or revision_of(model, tokenizer)
        self._device = _device(device)
        self._nets = Networks(model, tokenizer, spec, longest + MAX_CHUNK, self._device)
        self._sampling = Sampling(temperature=spec.temperature, top_k=spec.top_k, top_p=spec.top_p)
        self._planner = Planner(self.revision, spec)
        self.cache = PrefixCache(self._nets, spec, cache_bytes)
        self._group = max(1, GROUP_ROWS // spec.paths)
        self._suffixes = Suffixes(self.cache, self._group * spec.paths, spec.horizon)
        self._idle: OrderedDict[str, Plan] = OrderedDict()

    @torch.inference_mode()
    def forecast(
        self, requests: Sequence[EngineRequest], clock: Callable[[], int]
    ) -> list[EngineReply]:
        """One reply a request, in order; `clock` gives wall milliseconds."""
        replies: dict[int, EngineReply] = {}
        closes: list[_Close] = []
        for place, request in enumerate(requests):
            started = clock()
            bars = bars_of(request)
            self._idle.pop(request.symbol, None)
            try:
                plan = self._planner.close(request, bars)
            except NoAnchorError as error:
                self._queue_next(request, bars)
                replies[place] = EngineReply(
                    forecast_id=request.forecast_id,
                    refused=error.reason,
                    started_ms=started,
                    ended_ms=clock(),
                )
            else:
                closes.append(_Close(place, request, bars, plan))
        for group in self._groups(closes):
            started = clock()
            found, paths = self._close(group)
            ended = clock()
            for close, cache, sampled in zip(group, found, paths, strict=True):
                replies[close.place] = self._reply(close, cache, sampled, started, ended)
                self._queue_next(close.request, close.bars)
        return [replies[place] for place in range(len(requests))]

    def prepare(self, requests: Sequence[EngineRequest]) -> None:
        """Queues the prefixes of the bars that follow these."""
        for request in requests:
            self._queue_next(request, bars_of(request))

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

    def _groups(self, closes: list[_Close]) -> Iterator[list[_Close]]:
        """Closes of different symbols that are rolled out side by side, in order."""
        most = min(self._group, self.cache.capacity)
        group: list[_Close] = []
        symbols: set[str] = set()
        for close in closes:
            if len(group) == most or close.request.symbol in symbols:
                yield group
                group, symbols = [], set()
            group.append(close)
            symbols.add(close.request.symbol)
        if group:
            yield group

    def _close(
        self, group: list[_Close]
    ) -> tuple[list[Literal["hit", "extend", "miss"]], list[NDArray[np.float64]]]:
        """How much was cached, and the sampled paths, of each close of a group."""
        slots = [self.cache.slot(close.request.symbol) for close in group]
        plans = [close.plan for close in group]
        found = [self._complete(*both) for both in zip(slots, plans, strict=True)]
        last = self._advance(slots, plans)
        horizon, shape = self.spec.horizon, (self.spec.paths, self.spec.horizon)
        u = np.stack([uniforms(close.request.seed, *shape) for close in group])
        stamps = np.stack([close.bars.stamps[-horizon:] for close in group])
        lanes = [Lane(s.index, len(p.z)) for s, p in zip(slots, plans, strict=True)]
        z = rollout(
            self._nets,
            self.cache,
            self._suffixes,
            lanes,
            last,
            self._tensor(u),
            self._nets.times(torch.from_numpy(stamps)),
            self._sampling,
        )
        recon, sampled = last.recon.cpu().numpy(), z.cpu().numpy()
        paths = [self._joined(*three) for three in zip(group, recon, sampled, strict=True)]
        return found, paths

    def _joined(
        self, close: _Close, recon: NDArray[np.float32], z: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        paths = close.plan.scale.restore(z)
        if self.spec.join == "last_close":
            # The tokenizer misses bar t by a little: without this, all paths start from the miss.
            miss = close.bars.values[-1, CLOSE] - close.plan.scale.restore(recon)[CLOSE]
            paths[..., :PRICE_CHANNELS] += miss
        return paths

    def _complete(self, slot: Slot, plan: Plan) -> Literal["hit", "extend", "miss"]:
        """Brings the slot up to the whole context but its last bar, which is always run anew."""
        found: Literal["hit", "extend", "miss"] = "hit" if slot.key == plan.key else "miss"
        self._begin(slot, plan)
        if slot.pending is not None:
            found = "miss" if found == "miss" else "extend"
            for _ in slot.pending:
                pass
            slot.pending = None
        known = 0
        for ours, wanted in zip(slot.tail, plan.tail[:-1], strict=False):
            if ours != wanted:
                break
            known += 1
        if found == "hit" and known < len(plan.tail) - 1:
            found = "extend"
        slot.tail = slot.tail[:known]
        return found

    def _advance(self, slots: list[Slot], plans: list[Plan]) -> Last:
        """Runs the bars behind each prefix, the last bars of all slots together."""
        for slot, plan in zip(slots, plans, strict=True):
            for row in range(plan.prefix + len(slot.tail), len(plan.z) - 1):
                self._run([slot], [plan], [row])
            slot.tail = plan.tail
        return self._run(slots, plans, [len(plan.z) - 1 for plan in plans])

    def _run(self, slots: list[Slot], plans: list[Plan], rows: list[int]) -> Last:
        z = np.stack([plan.z[row] for plan, row in zip(plans, rows, strict=True)])
        stamps = np.stack([plan.stamps[row] for plan, row in zip(plans, rows, strict=True)])
        lanes = [Lane(slot.index, row) for slot, row in zip(slots, rows, strict=True)]
        times = self._nets.times(torch.from_numpy(stamps))
        return advance(self._nets, self.cache, lanes, self._tensor(z), times)

    def _begin(self, slot: Slot, plan: Plan) -> None:
        """Starts the prefix of `plan`, unless it is there or on its way."""
        if slot.key == plan.key:
            return
        slot.forget()
        slot.key = plan.key
        z, stamps = plan.z[: plan.prefix], torch.from_numpy(plan.stamps[: plan.prefix])
        slot.pending = prefill(self._nets, self.cache, slot.index, self._tensor(z), stamps)

    def _tensor(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _queue_next(self, request: EngineRequest, bars: Bars) -> None:
        plan = self._planner.following(request, bars)
        if plan is not None:
            self._idle[request.symbol] = plan

    def _reply(
        self,
        close: _Close,
        cache: Literal["hit", "extend", "miss"],
        paths: NDArray[np.float64],
        started: int,
        ended: int,
    ) -> EngineReply:
        span, scale = close.plan.span, close.plan.scale
        unclipped = (close.bars.values[-1] - scale.mean) / (scale.std + scale.floor)
        return EngineReply(
            forecast_id=close.request.forecast_id,
            paths=paths.astype("<f8").tobytes(),
            anchor=AnchorInfo(
                open_time=int(close.bars.open_times[span.start + self.spec.lookback - 1]),
                length=self.spec.lookback,
                mean=scale.mean.tolist(),
                std=scale.std.tolist(),
            ),
            clipped_share=float((np.abs(unclipped) > CLIP).mean()),
            context_start=span.start,
            cache=cache,
            started_ms=started,
            ended_ms=ended,
        )
