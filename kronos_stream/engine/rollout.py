"""From cached prefixes to N sampled paths each: the paths of a symbol share its prefix.

Every step runs one new token of all paths of all symbols, rows that lie side by side: each attends
to its symbol's prefix and to its own short suffix. The tokenizer's decoder does not feed back into
sampling, so it decodes all new tokens in one causal pass at the end.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.sampling import Sampling, draw
from .attention import Branches
from .cache import Prefixes
from .kv import KV, Lane
from .networks import Networks


class Inputs(NamedTuple):
    """What differs from one rollout of the same lanes to the next."""

    lengths: Tensor
    """(S,) positions of each lane."""
    hidden: Tensor
    """(S, d) normed hidden states at each lane's last position."""
    u: Tensor
    """(S, paths, steps, 2) uniforms of coarse and fine ids."""
    times: Tensor
    """(S, steps, d) time embeddings of the sampled bars."""


class Suffixes:
    """Each row's own keys and values, for at most `rows` rows and `steps` steps; allocated once."""

    def __init__(self, prefixes: Prefixes, rows: int, steps: int) -> None:
        def like(kv: KV) -> tuple[Tensor, Tensor]:
            layers, _, heads, _, width = kv.keys.shape
            shape = (layers, rows, heads, steps, width)
            return kv.keys.new_zeros(shape), kv.keys.new_zeros(shape)

        self.model, self.fine = like(prefixes.model), like(prefixes.fine)


def rollout(
    nets: Networks,
    prefixes: Prefixes,
    suffixes: Suffixes,
    lanes: Sequence[Lane],
    inputs: Inputs,
    sampling: Sampling,
) -> Tensor:
    """Sampled z (S, paths, steps, 6) behind the positions of S lanes."""
    lengths, last, u, times = inputs
    symbols, paths, steps = u.shape[:3]
    rows = symbols * paths
    u = u.flatten(0, 1)
    begin = lengths.repeat_interleave(paths)
    hidden = last.repeat_interleave(paths, dim=0)
    ids = torch.empty(2, steps, rows, dtype=torch.long, device=u.device)
    branches = _branches(prefixes.model, suffixes.model, lanes, rows)
    (fine,) = _branches(prefixes.fine, suffixes.fine, lanes, rows)
    for step in range(steps):
        position = begin + step
        coarse = draw(nets.coarse_logits(hidden), u[:, step, 0], sampling)
        q = nets.fine.queries(coarse, position - 1)
        logits = nets.fine.logits(hidden, fine.attend(q, step))
        ids[0, step], ids[1, step] = coarse, draw(logits, u[:, step, 1], sampling)
        if step == steps - 1:
            break
        x = nets.tokens(*ids[:, step]) + times[:, step].repeat_interleave(paths, dim=0)
        turns = nets.model.turns(position)
        for layer, own in zip(nets.model.layers, branches, strict=True):
            x = layer(x, turns, own, step)
        hidden = nets.norm(x)
        fine.append(*nets.fine.keys_values(hidden, position), step)
    z = _decoded(nets, prefixes.decoder, lanes, begin, ids.transpose(1, 2))
    return z.view(symbols, paths, steps, -1)


def _branches(
    prefix: KV, suffix: tuple[Tensor, Tensor], lanes: Sequence[Lane], rows: int
) -> list[Branches]:
    """Of each layer, with the first rows of the suffix."""
    keys, values = suffix
    return [
        Branches(prefix, layer, lanes, (keys[layer, :rows], values[layer, :rows]))
        for layer in range(len(keys))
    ]


def _decoded(nets: Networks, kv: KV, lanes: Sequence[Lane], begin: Tensor, ids: Tensor) -> Tensor:
    """Ids (2, rows, steps) behind the positions `begin` (rows,) → z (rows · steps, 6), in one
    pass."""
    rows, steps = ids.shape[1:]
    s1, s2 = ids.flatten(1)
    positions = (begin[:, None] + torch.arange(steps, device=ids.device)).flatten()
    turns = nets.decoder.turns(positions)
    h = nets.codes(s1, s2)
    _, _, heads, _, width = kv.keys.shape
    own = h.new_empty(rows, heads, steps, width), h.new_empty(rows, heads, steps, width)
    for index, layer in enumerate(nets.decoder.layers):
        h = layer(h, turns, Branches(kv, index, lanes, own, steps))
    return nets.restore(h)
