"""Bars into slots: encode, tokenise, and keep every layer's keys and values.

A prefix goes in chunks of one slot, as a generator that stops after each layer, so that idle work
never makes a close wait for more than that. The bars that close go one a slot, all slots at once:
the weights are read once for all of them.
"""

from collections.abc import Generator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .attention import trunks
from .cache import PrefixCache
from .kv import KV, Lane
from .networks import Networks, Stack


class Last(NamedTuple):
    """Of each row's position: normed hidden state (R, d) and reconstructed z (R, 6)."""

    hidden: Tensor
    recon: Tensor


def prefill(
    nets: Networks, cache: PrefixCache, slot: int, z: Tensor, stamps: Tensor
) -> Generator[None, None, None]:
    """Fills the slot with the prefix z (n, 6), stamps (n, 5), in chunks padded to one shape: the
    padding lies behind the prefix, where causality keeps it from being seen."""
    padding = -len(z) % cache.chunk
    z = F.pad(z, (0, 0, 0, padding))
    times = nets.times(F.pad(stamps, (0, 0, 0, padding)))
    for start in range(0, len(z), cache.chunk):
        rows = slice(start, start + cache.chunk)
        yield from _chunk(nets, cache, Lane(slot, start), z[rows], times[rows])


def _chunk(
    nets: Networks, cache: PrefixCache, lane: Lane, z: Tensor, times: Tensor
) -> Generator[None, None, None]:
    """Appends bars z (T, 6) behind the positions of `lane`."""
    positions = torch.arange(lane.length, lane.length + len(z), device=z.device)
    h = yield from _chunk_through(
        nets.encoder, cache.encoder, lane, nets.latent_input(z), positions
    )
    s1, s2 = nets.ids(h)
    yield from _chunk_through(nets.decoder, cache.decoder, lane, nets.codes(s1, s2), positions)
    x = nets.tokens(s1, s2) + times
    x = yield from _chunk_through(nets.model, cache.model, lane, x, positions)
    (fine,) = trunks(cache.fine, [lane], len(x))
    fine.append(*nets.fine.keys_values(nets.norm(x), positions))
    yield


def _chunk_through(
    stack: Stack, kv: KV, lane: Lane, x: Tensor, positions: Tensor
) -> Generator[None, None, Tensor]:
    turns = stack.turns(positions)
    for layer, slot in zip(stack.layers, trunks(kv, [lane], len(x)), strict=True):
        x = layer(x, turns, slot)
        yield
    return x


def advance(
    nets: Networks, cache: PrefixCache, lanes: Sequence[Lane], z: Tensor, times: Tensor
) -> Last:
    """Appends one bar to each lane, behind its positions: z (R, 6), times (R, d)."""
    positions = torch.tensor([lane.length for lane in lanes], device=z.device)

    def through(stack: Stack, kv: KV, x: Tensor) -> Tensor:
        turns = stack.turns(positions)
        for layer, slots in zip(stack.layers, trunks(kv, lanes), strict=True):
            x = layer(x, turns, slots)
        return x

    s1, s2 = nets.ids(through(nets.encoder, cache.encoder, nets.latent_input(z)))
    recon = nets.restore(through(nets.decoder, cache.decoder, nets.codes(s1, s2)))
    hidden = nets.norm(through(nets.model, cache.model, nets.tokens(s1, s2) + times))
    (fine,) = trunks(cache.fine, lanes)
    fine.append(*nets.fine.keys_values(hidden, positions))
    return Last(hidden, recon)
