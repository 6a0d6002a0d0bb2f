"""From one cached prefix to N sampled paths, which share the prefix without copying it.

Every step runs the N new tokens (N, 1, d) through the model: their queries attend to the shared
prefix as one matrix product and to their own short suffix, under one softmax. The tokenizer's
decoder does not feed back into sampling, so it decodes all new tokens in one causal pass at the
end. Symbols are rolled out one by one: the shapes, and with them the bits, never depend on which
other symbols closed in the same batch.
"""

from typing import cast

import torch
from torch import Tensor

from ..model.sampling import Sampling, draw
from ..model.transformer import Block
from .cache import KV, Slot
from .prefill import Last, Networks


def rollout(
    nets: Networks,
    slot: Slot,
    last: Last,
    length: int,
    u: Tensor,
    stamps: Tensor,
    sampling: Sampling,
) -> Tensor:
    """Sampled z (paths, steps, 6) after the `length` cached positions.

    u (paths, steps, 2) are the uniforms of coarse and fine ids, stamps (steps, 5) the time
    features of the sampled bars.
    """
    model, tokenizer = nets
    paths, steps = u.shape[:2]
    kv_heads = slot.model.keys.shape[1]
    suffixes = [
        _Suffix(slot.model, layer, length, paths, steps, kv_heads)
        for layer in range(slot.model.keys.shape[0])
    ]
    fine_suffix = _Suffix(slot.fine, 0, length, paths, steps, slot.fine.keys.shape[1])
    rotated = model.fine_head_rotary == "trained"
    ids = torch.empty(2, paths, steps, dtype=torch.long, device=u.device)
    hidden = last.hidden.expand(paths, -1, -1)
    for step in range(steps):
        position = length + step
        coarse = draw(model.coarse_logits(hidden[:, 0]), u[:, step, 0], sampling)
        embedded = model.embedding.emb_s1(coarse[:, None])
        q = model.dep_layer.queries(embedded, position - 1 if rotated else None)
        seen = model.dep_layer.finish(hidden, fine_suffix.attend(q, step))
        fine = draw(model.head.proj_s2(seen)[:, 0], u[:, step, 1], sampling)
        ids[0, :, step], ids[1, :, step] = coarse, fine
        if step == steps - 1:
            break
        x = model.embed(coarse[:, None], fine[:, None], stamps[None, step : step + 1])
        for module, suffix in zip(model.transformer, suffixes, strict=True):
            block = cast(Block, module)
            q, k, v = block.project(x, position)
            suffix.write(step, k, v)
            x = block.finish(x, suffix.attend(q, step + 1))
        hidden = model.norm(x)
        k, v = model.dep_layer.keys_values(hidden, position if rotated else None)
        fine_suffix.write(step, k, v)
    h = tokenizer.post_quant_embed(tokenizer.codes_of(ids[0], ids[1]))
    for layer, module in enumerate(tokenizer.decoder):
        block = cast(Block, module)
        q, k, v = block.project(h, length)
        h = block.finish(h, shared_attention(q, *slot.decoder.read(layer, length), k, v))
    z: Tensor = tokenizer.head(h)
    return z


class _Suffix:
    """One layer's keys and values behind the shared prefix, (paths, heads, steps, width) each."""

    def __init__(
        self, prefix: KV, layer: int, length: int, paths: int, steps: int, heads: int
    ) -> None:
        self._prefix = prefix.read(layer, length)
        shape = (paths, heads, steps, prefix.keys.shape[-1])
        self._keys = prefix.keys.new_empty(shape)
        self._values = prefix.values.new_empty(shape)

    def write(self, step: int, keys: Tensor, values: Tensor) -> None:
        """Keys and values (paths, heads, 1, width) of one step."""
        self._keys[:, :, step] = keys[:, :, 0]
        self._values[:, :, step] = values[:, :, 0]

    def attend(self, q: Tensor, steps: int) -> Tensor:
        """q (paths, H, 1, width) over the prefix and the first `steps` own positions."""
        own = self._keys[:, :, :steps], self._values[:, :, :steps]
        return shared_attention(q, *self._prefix, *own)


def shared_attention(
    q: Tensor, prefix_k: Tensor, prefix_v: Tensor, own_k: Tensor, own_v: Tensor
) -> Tensor:
    """softmax over prefix and suffix together → (N, H, T, D).

    q (N, H, T, D); prefix (K, L, D), shared by all N; own (N, K, S, D), of which query i sees the
    first S - T + 1 + i; H is a multiple of K.
    """
    n, h, t, d = q.shape
    k, length = prefix_k.shape[:2]
    s = own_k.shape[2]
    grouped = (q * d**-0.5).view(n, k, h // k * t, d)
    by_head = grouped.transpose(0, 1).reshape(k, -1, d)
    scores = (by_head @ prefix_k.transpose(1, 2)).view(k, n, -1, length)
    if s:
        own = grouped @ own_k.transpose(2, 3)
        if t > 1:
            hidden = torch.ones(t, s, dtype=torch.bool, device=q.device).triu(s - t + 1)
            own = own.masked_fill(hidden.repeat(h // k, 1), -torch.inf)
        scores = torch.cat((scores, own.transpose(0, 1)), dim=-1)
    p = scores.float().softmax(-1).to(q.dtype)
    out = (p[..., :length].reshape(k, -1, length) @ prefix_v).view(k, n, -1, d).transpose(0, 1)
    if s:
        out = out + p[..., length:].transpose(0, 1) @ own_v
    attended: Tensor = out.reshape(n, h, t, d)
    return attended
