"""The engine: closed bars in, sampled paths out, and between closes the prefixes of the next ones.

Synchronous and without I/O; the worker process runs it, and the off-line command uses it as it is.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import EngineError, InputError
from ..model.checkpoints import revision_of
from ..model.devices import device_of
from ..model.features import CLIP, PRICE_CHANNELS, Scale
from ..model.kronos import Kronos
from ..model.philox import uniforms
from ..model.sampling import Sampling
from ..model.tokenizer import KronosTokenizer
from ..wire.messages import CLOSE, AnchorInfo, ForecastSpec
from .anchors import Bars, NoAnchorError
from .cache import MAX_CHUNK, PrefixCache, Prefixes, Slot
from .kv import Lane
from .messages import EngineReply, EngineRequest
from .networks import Networks
from .plans import Plan, Planner, Prefix, bars_of
from .prefill import Last, advance, prefill
from .replay import Replay
from .rollout import Inputs, Suffixes, rollout

GROUP_ROWS: Final = 256
"""Paths rolled out side by side, about: enough that products run at full speed, and few enough
that what they pass on stays in the processor's cache."""
GPU_GROUP_ROWS: Final = 16_384


class _Close(NamedTuple):
    """A request that gives a forecast, and where its answer belongs."""

    place: int
    request: EngineRequest
    bars: Bars
    plan: Plan


class _Restored(NamedTuple):
    """Paths (S, paths, steps, 6), joined, and by how much each last close was missed (S,)."""

    paths: NDArray[np.float64]
    miss: NDArray[np.float64]


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
        try:
            self._device = device_of(device)
        except InputError as error:
            raise EngineError(f"model.{error}") from error
        self._nets = Networks(model, tokenizer, spec, longest + MAX_CHUNK, self._device)
        self._sampling = Sampling(temperature=spec.temperature, top_k=spec.top_k, top_p=spec.top_p)
        self._planner = Planner(self.revision, spec)
        self.cache = PrefixCache(self._nets, spec, cache_bytes)
        on_gpu = self._device.type == "cuda"
        self._group = max(1, (GPU_GROUP_ROWS if on_gpu else GROUP_ROWS) // spec.paths)
        suffixes = Suffixes(self.cache.prefixes, self._group * spec.paths, spec.horizon)

        def roll(prefixes: Prefixes, lanes: Sequence[Lane], inputs: Inputs) -> Tensor:
            return rollout(self._nets, prefixes, suffixes, lanes, inputs, self._sampling)

        prefixes = self.cache.prefixes
        self._roll = Replay(prefixes, roll, self._group) if on_gpu else partial(roll, prefixes)
        self._idle: OrderedDict[str, Iterator[None]] = OrderedDict()

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
                plan = self._planner.close(request, bars, self.cache.known(request.symbol))
            except NoAnchorError as error:
                replies[place] = EngineReply(
                    forecast_id=request.forecast_id,
                    refused=error.reason,
                    started_ms=started,
                    ended_ms=clock(),
                )
            else:
                closes.append(_Close(place, request, bars, plan))
        # Where there are more symbols than slots, a new one costs one that had its turn.
        closes.sort(key=lambda close: self.cache.known(close.request.symbol) is None)
        for group in self._groups(closes):
            started = clock()
            # Slots that lie side by side are read together.
            group.sort(key=lambda close: self.cache.slot(close.request.symbol).index)
            found, restored = self._close(group)
            ended = clock()
            for close, cache, paths, miss in zip(group, found, *restored, strict=True):
                reply = self._reply(close, cache, paths, float(miss), started, ended)
                replies[close.place] = reply
        self.prepare(requests)
        return [replies[place] for place in range(len(requests))]

    def prepare(self, requests: Sequence[EngineRequest]) -> None:
        """Queues the prefixes of the bars that follow these."""
        for request in requests:
            self._idle[request.symbol] = self._prepared(request)

    @torch.inference_mode()
    def step_idle(self) -> bool:
        """One unit of idle work; False where there is none left."""
        while self._idle:
            symbol, work = next(iter(self._idle.items()))
            if next(work, StopIteration) is not StopIteration:
                return True
            del self._idle[symbol]
        return False

    def _prepared(self, request: EngineRequest) -> Iterator[None]:
        """Fills the symbol's slot with the prefix of the bar that follows, a unit at a time, unless
        another symbol would lose its own."""
        if not self.cache.has_room_for(request.symbol):
            return
        prefix = self._planner.following(request, self.cache.known(request.symbol))
        if prefix is None:
            return
        slot = self.cache.slot(request.symbol)
        self._begin(slot, prefix)
        while slot.pending is not None and slot.holds(prefix):
            if next(slot.pending, StopIteration) is StopIteration:
                slot.pending = None
            yield

    def _groups(self, closes: list[_Close]) -> Iterator[list[_Close]]:
        """Closes of different symbols that are rolled out side by side."""
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

    @torch.inference_mode()
    def coarse_logits(self, requests: Sequence[EngineRequest]) -> Tensor:
        """Coarse logits (S, 2^s1_bits) of the bars that follow, float32; NoAnchorError where a
        request gives no forecast. Of different symbols, as many as the cache has slots."""
        plans = [self._planner.close(r, bars_of(r), None) for r in requests]
        slots = [self.cache.slot(r.symbol) for r in requests]
        for slot, plan in zip(slots, plans, strict=True):
            self._complete(slot, plan)
        return self._nets.coarse_logits(self._advance(slots, plans).hidden).float()

    def _close(
        self, group: list[_Close]
    ) -> tuple[list[Literal["hit", "extend", "miss"]], _Restored]:
        """How much was cached, and what was sampled, of each close of a group."""
        slots = [self.cache.slot(close.request.symbol) for close in group]
        plans = [close.plan for close in group]
        found = [self._complete(*both) for both in zip(slots, plans, strict=True)]
        last = self._advance(slots, plans)
        horizon = self.spec.horizon
        u = uniforms([close.request.seed for close in group], self.spec.paths, horizon)
        stamps = np.stack([close.bars.stamps[-horizon:] for close in group])
        lanes = [Lane(slot.index, plan.length) for slot, plan in zip(slots, plans, strict=True)]
        inputs = Inputs(
            lengths=torch.tensor([lane.length for lane in lanes], device=self._device),
            hidden=last.hidden,
            u=self._tensor(u),
            times=self._nets.times(torch.from_numpy(stamps)),
        )
        z = self._roll(lanes, inputs)
        return found, self._restored(group, last.recon.cpu().numpy(), z.cpu().numpy())

    def _restored(
        self, group: list[_Close], recon: NDArray[np.float32], z: NDArray[np.float32]
    ) -> _Restored:
        """recon (S, 6) and z (S, paths, steps, 6) → joined paths in the channels' units."""
        scales = Scale(*(np.stack(parts) for parts in zip(*(c.plan.prefix.scale for c in group))))
        aside = Scale(*(part[:, None, None] for part in scales))
        paths = aside.restore(z)
        # The tokenizer misses bar t by a little: unjoined, all paths start from the miss.
        closes = np.stack([close.bars.values[-1, CLOSE] for close in group])
        miss = closes - scales.restore(recon)[:, CLOSE]
        if self.spec.join == "last_close":
            paths[..., :PRICE_CHANNELS] += miss[:, None, None, None]
        return _Restored(paths, miss)

    def _complete(self, slot: Slot, plan: Plan) -> Literal["hit", "extend", "miss"]:
        """Brings the slot up to the whole context but its last bar, which is always run anew."""
        held = slot.holds(plan.prefix)
        found: Literal["hit", "extend", "miss"] = "hit" if held else "miss"
        self._begin(slot, plan.prefix)
        if slot.pending is not None:
            found = "extend" if held else "miss"
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
            for row in range(len(slot.tail), len(plan.tail) - 1):
                self._run([slot], [plan], [row])
            slot.tail = plan.tail
        return self._run(slots, plans, [len(plan.tail) - 1 for plan in plans])

    def _run(self, slots: list[Slot], plans: list[Plan], rows: list[int]) -> Last:
        z = np.stack([plan.z[row] for plan, row in zip(plans, rows, strict=True)])
        stamps = np.stack([plan.stamps[row] for plan, row in zip(plans, rows, strict=True)])
        lanes = [
            Lane(slot.index, len(plan.prefix) + row)
            for slot, plan, row in zip(slots, plans, rows, strict=True)
        ]
        times = self._nets.times(torch.from_numpy(stamps))
        return advance(self._nets, self.cache, lanes, self._tensor(z), times)

    def _begin(self, slot: Slot, prefix: Prefix) -> None:
        """Starts the prefix, unless it is there or on its way."""
        if slot.holds(prefix):
            return
        slot.forget()
        slot.prefix = prefix
        z, stamps = self._tensor(prefix.z), torch.from_numpy(prefix.bars.stamps)
        slot.pending = prefill(self._nets, self.cache, slot.index, z, stamps)

    def _tensor(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _reply(
        self,
        close: _Close,
        cache: Literal["hit", "extend", "miss"],
        paths: NDArray[np.float64],
        miss: float,
        started: int,
        ended: int,
    ) -> EngineReply:
        span, scale = close.plan.span, close.plan.prefix.scale
        unclipped = (close.bars.values[-1] - scale.mean) / (scale.std + scale.floor)
        return EngineReply(
            forecast_id=close.request.forecast_id,
            paths=paths.astype("<f8").tobytes(),
            miss=miss,
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
