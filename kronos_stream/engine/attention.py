"""Attention in two parts under one softmax: over a prefix that many rows share, without copying
it, and over what follows it.

A part gives its output and the logarithm of its softmax's sum (lse); two parts of the same queries
are then one by their weights exp(lse) (Dao 2023 calls it split attention). Shapes: R rows, H query
heads, K key/value heads, D head width; H is a multiple of K.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from . import native
from .kv import KV, Lane
from .native import reading

HEADS_OF: Final = 8
WIDEST_FLASH: Final = 256


class Part(NamedTuple):
    """out (R, H, D) in the values' dtype, lse (R, H) in float32."""

    out: Tensor
    lse: Tensor


class Memory(Protocol):
    """What the rows of some lanes look at in one layer, as many rows of each lane, one lane's after
    the other's. A row sees what is before it and itself."""

    native: native.Memory | None
    """The same for the compiled kernels, where they do it."""

    def append(self, keys: Tensor, values: Tensor, step: int) -> None:
        """Each row's keys and values (R, K, D); of its own, a run's from `step` on."""
        ...

    def attend(self, q: Tensor, seen: int) -> Tensor:
        """q (R, H, D) over what each row sees → (R, H, D): of its own, the first row of a run sees
        `seen` steps, and every other row one more than the row before."""
        ...


def trunks(kv: KV, lanes: Sequence[Lane], each: int = 1) -> list["Trunk"]:
    """Of all layers, for `each` rows of each lane; more than one of one lane alone."""
    places = None if reading(kv.keys) else kv.places(lanes, each)
    return [Trunk(kv, layer, lanes, each, places) for layer in range(len(kv.keys))]


class Trunk(Memory):
    """Rows that continue their lanes: their keys and values go into the slot."""

    def __init__(
        self,
        kv: KV,
        layer: int,
        lanes: Sequence[Lane],
        each: int,
        places: tuple[Tensor, Tensor] | None,
    ) -> None:
        """`places` of these rows in the slots, where torch is to do it."""
        self._kv, self._layer, self._lanes, self._each = kv, layer, lanes, each
        self._places = places
        slots = kv.keys[layer], kv.values[layer]
        found = reading(slots[0])
        self.native = native.Memory(found, slots, None, lanes, each) if found else None

    def append(self, keys: Tensor, values: Tensor, step: int = 0) -> None:
        if self.native:
            self.native.append(keys, values, step)
            return
        assert self._places is not None
        self._kv.write(self._layer, self._places, keys, values)

    def attend(self, q: Tensor, seen: int = 0) -> Tensor:
        if self.native:
            return self.native.attend(q, seen)
        if self._each == 1:
            after = [Lane(lane.slot, lane.length + 1) for lane in self._lanes]
            return over_prefix(q, self._kv, self._layer, after).out
        (lane,) = self._lanes
        keys, values = self._kv.read(self._layer, lane.slot, lane.length + self._each, slots=1)
        own = among_own(q, keys[:, :, lane.length :], values[:, :, lane.length :])
        if lane.length == 0:
            return own.out
        return merged(own, over_prefix(q, self._kv, self._layer, self._lanes))


class Branches(Memory):
    """Rows that branch off from their lanes: each run of `run` rows has keys and values of its own
    (R / run, K, S, D), which begin behind what its lane's slot holds."""

    def __init__(
        self,
        kv: KV,
        layer: int,
        lanes: Sequence[Lane],
        own: tuple[Tensor, Tensor],
        run: int = 1,
    ) -> None:
        """Runs of more than one row are as long as what they have of their own."""
        self._kv, self._layer, self._lanes, self._own, self._run = kv, layer, lanes, own, run
        found = reading(own[0])
        slots = kv.keys[layer], kv.values[layer]
        self.native = native.Memory(found, slots, own, lanes, run) if found else None

    def append(self, keys: Tensor, values: Tensor, step: int) -> None:
        if self.native:
            self.native.append(keys, values, step)
            return
        for own, new in zip(self._own, (keys, values), strict=True):
            own[:, :, step : step + self._run] = _by_head(new, len(own))

    def attend(self, q: Tensor, seen: int) -> Tensor:
        if self.native:
            return self.native.attend(q, seen)
        prefix = over_prefix(q, self._kv, self._layer, self._lanes)
        if self._run == 1:
            return with_suffix(prefix, q, *self._own, seen)
        return merged(among_own(q, *self._own), prefix)


def over_prefix(q: Tensor, kv: KV, layer: int, lanes: Sequence[Lane]) -> Part:
    """q (R, H, D): the rows of each lane, one lane after the other, as many for each."""
    each = q.shape[0] // len(lanes)
    parts: list[Part] = []
    begin = 0
    for slot, count, length in _runs(lanes, together=q.is_cuda):
        rows = slice(begin, begin + count * each)
        parts.append(_shared(q[rows], *kv.read(layer, slot, length, slots=count)))
        begin = rows.stop
    if len(parts) == 1:
        return parts[0]
    return Part(torch.cat([p.out for p in parts]), torch.cat([p.lse for p in parts]))


def _runs(lanes: Sequence[Lane], *, together: bool) -> Iterator[tuple[int, int, int]]:
    """(first slot, slots, length) of lanes that lie side by side and are equally long, where they
    are to be taken together: a GPU wants few large kernels. On a CPU each lane goes alone, so that
    its bits cannot depend on how many there are."""
    begin = 0
    for i, lane in enumerate(lanes):
        follows = i + 1 < len(lanes) and lanes[i + 1] == Lane(lane.slot + 1, lane.length)
        if not (together and follows):
            yield lanes[begin].slot, i + 1 - begin, lane.length
            begin = i + 1


def _shared(q: Tensor, keys: Tensor, values: Tensor) -> Part:
    """q (S·n, H, D), n rows for each of S slots, over keys and values (S, K, L, D)."""
    s, k = keys.shape[:2]
    rows, h, d = q.shape
    by_head = q.view(s, rows // s, k, h // k, d).transpose(1, 2).reshape(s, k, -1, d)
    out, lse = _flash(by_head, keys, values, causal=False)
    return Part(
        out.reshape(s, k, rows // s, h // k, d).transpose(1, 2).reshape(rows, h, d),
        lse.reshape(s, k, rows // s, h // k).transpose(1, 2).reshape(rows, h),
    )


def among_own(q: Tensor, keys: Tensor, values: Tensor) -> Part:
    """Causal attention within runs of rows: q (R, H, D), keys and values (runs, K, T, D)."""
    groups = q.shape[1] // keys.shape[1]
    if groups > 1:
        keys, values = (x.repeat_interleave(groups, dim=1) for x in (keys, values))
    out, lse = _flash(_by_head(q, len(keys)), keys, values, causal=True)
    return Part(out.transpose(1, 2).flatten(0, 1), lse.transpose(1, 2).flatten(0, 1))


def _by_head(x: Tensor, runs: int) -> Tensor:
    """(runs · T, H, D) → (runs, H, T, D)."""
    return x.reshape(runs, -1, *x.shape[1:]).transpose(1, 2)


def merged(one: Part, other: Part) -> Tensor:
    """Both parts under one softmax → (R, H, D)."""
    weights = torch.stack((one.lse, other.lse), dim=-1).softmax(-1).to(one.out.dtype)
    return (one.out * weights[..., :1]).addcmul_(other.out, weights[..., 1:])


def with_suffix(prefix: Part, q: Tensor, keys: Tensor, values: Tensor, seen: int) -> Tensor:
    """The prefix part and the first `seen` of each row's own keys and values (R, K, S, D) under
    one softmax → (R, H, D). The prefix enters the softmax as one more key, whose logit is its
    lse. What lies behind `seen` must be finite: it is multiplied by 0, because products of whole
    tensors are faster than those of a part, which is copied first."""
    r, h, d = q.shape
    k, steps = keys.shape[1:3]
    grouped = (q * d**-0.5).view(r * k, h // k, d)
    own = torch.bmm(grouped, keys.flatten(0, 1).transpose(1, 2)).view(r, h, steps)
    own[..., seen:] = -torch.inf
    weights = torch.cat((prefix.lse[..., None], own.float()), dim=-1).softmax(-1).to(q.dtype)
    of_own = torch.bmm(weights[..., 1:].reshape(r * k, h // k, steps), values.flatten(0, 1))
    return of_own.view(r, h, d).addcmul_(prefix.out, weights[..., :1])


def _flash(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """(B, H, T, D) each → output (B, H, T, D) and lse (B, H, T): the kernels behind torch's
    scaled_dot_product_attention, which keeps the lse to itself."""
    ops = torch.ops.aten
    if q.device.type == "cpu":
        out, lse = ops._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)
    elif q.dtype == torch.float32:
        out, lse, *_ = ops._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, causal)
        lse = lse[..., : q.shape[2]]
    else:
        out, lse = _half(q, k, v, causal=causal)
    return out, lse.float()


def _half(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """On a GPU in bfloat16, whose kernels take heads of a multiple of HEADS_OF (those of
    Kronos-base are 52 wide), flash attention up to WIDEST_FLASH."""
    ops, width = torch.ops.aten, q.shape[-1]
    scale = width**-0.5
    if missing := -width % HEADS_OF:
        q, k, v = (F.pad(x, (0, missing)) for x in (q, k, v))
    if width > WIDEST_FLASH:
        out, lse, *_ = ops._scaled_dot_product_efficient_attention(
            q, k, v, None, True, 0.0, causal, scale=scale
        )
        lse = lse[..., : q.shape[2]]
    else:
        out, lse, *_ = ops._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)
    return out[..., :width], lse
