"""Attention in two parts under one softmax: over a prefix that many rows share, without copying
it, and over what follows it.

A part gives its output and the logarithm of its softmax's sum (lse); two parts of the same queries
are then one by their weights exp(lse) (Dao 2023 calls it split attention). Shapes: R rows, H query
heads, K key/value heads, D head width; H is a multiple of K.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .cache import KV
from .native import Places, kernels


class Lane(NamedTuple):
    """Where the rows of one symbol look: its slot, and how many positions of it."""

    slot: int
    length: int


class Part(NamedTuple):
    """out (R, H, D) in the values' dtype, lse (R, H) in float32."""

    out: Tensor
    lse: Tensor


class Memory:
    """What the rows of a rollout look at in one layer: the prefix of their lane, which as many rows
    share for each, and each row's own keys and values (R, K, S, D), one more a step."""

    def __init__(self, kv: KV, layer: int, lanes: Sequence[Lane], own: tuple[Tensor, Tensor]):
        self._kv, self._layer, self._lanes, self._own = kv, layer, lanes, own
        self._kernels = kernels(own[0])
        if self._kernels:
            self._places = Places((kv.keys[layer], kv.values[layer]), own, lanes)

    def append(self, keys: Tensor, values: Tensor, step: int) -> None:
        """Each row's own keys and values (R, K, D) of a step."""
        if self._kernels:
            self._kernels.append(keys, values, self._places, step)
        else:
            self._own[0][:, :, step], self._own[1][:, :, step] = keys, values

    def attend(self, q: Tensor, seen: int) -> Tensor:
        """q (R, H, D), one lane's rows after the other's, over the prefix and the first `seen` own
        steps under one softmax → (R, H, D)."""
        if self._kernels:
            return self._kernels.attend(q, self._places, seen)
        prefix = over_prefix(q, self._kv, self._layer, self._lanes)
        return with_suffix(prefix, q, *self._own, seen)


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


def among_own(q: Tensor, k: Tensor, v: Tensor, series: int) -> Part:
    """Causal attention within each of `series` runs of rows: q (R, H, D), k and v (R, K, D)."""
    groups = q.shape[1] // k.shape[1]

    def by_head(x: Tensor, repeat: int) -> Tensor:
        apart = x.reshape(series, -1, *x.shape[1:]).transpose(1, 2)
        return apart.repeat_interleave(repeat, dim=1) if repeat > 1 else apart

    out, lse = _flash(by_head(q, 1), by_head(k, groups), by_head(v, groups), causal=True)
    return Part(out.transpose(1, 2).flatten(0, 1), lse.transpose(1, 2).flatten(0, 1))


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
        out, lse, *_ = ops._scaled_dot_product_flash_attention(q, k, v, 0.0, causal)
    return out, lse.float()
