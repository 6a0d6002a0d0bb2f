"""Bars into a slot: encode, tokenise, and keep every layer's keys and values.

Work comes as generators that stop after each layer, so that idle work never makes a close wait
for more than one layer of one chunk.
"""

from collections.abc import Generator, Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.kronos import Kronos
from ..model.tokenizer import KronosTokenizer
from ..model.transformer import Block
from .cache import CHUNK, KV, Slot


class Networks(NamedTuple):
    """The model (in its dtype) and the tokenizer (always float32), on one device."""

    model: Kronos
    tokenizer: KronosTokenizer


class Last(NamedTuple):
    """Of the last position: normed hidden state (1, 1, d) and reconstructed z (6,)."""

    hidden: Tensor
    recon: Tensor


def prefill(nets: Networks, slot: Slot, z: Tensor, stamps: Tensor) -> Generator[None, None, None]:
    """Fills the slot with the prefix z (n, 6), stamps (n, 5), in chunks padded to one shape: the
    padding lies behind the prefix, where causality keeps it from being seen."""
    padding = -len(z) % CHUNK
    z = F.pad(z, (0, 0, 0, padding))
    stamps = F.pad(stamps, (0, 0, 0, padding))
    for start in range(0, len(z), CHUNK):
        yield from advance(nets, slot, z[start:][:CHUNK], stamps[start:][:CHUNK], start)


def advance(
    nets: Networks, slot: Slot, z: Tensor, stamps: Tensor, start: int
) -> Generator[None, None, Last]:
    """Appends bars z (T, 6) at position `start`; stops after each layer."""
    model, tokenizer = nets
    h = tokenizer.embed(z[None])
    h = yield from _through(tokenizer.encoder, slot.encoder, h, start)
    s1, s2 = tokenizer.ids_of_latents(tokenizer.quant_embed(h))
    h = tokenizer.post_quant_embed(tokenizer.codes_of(s1, s2))
    h = yield from _through(tokenizer.decoder, slot.decoder, h, start)
    recon = tokenizer.head(h[:, -1:])
    x = model.embed(s1, s2, stamps[None])
    x = yield from _through(model.transformer, slot.model, x, start)
    hidden = model.norm(x)
    rotated = model.fine_head_rotary == "trained"
    slot.fine.write(0, start, *model.dep_layer.keys_values(hidden, start if rotated else None))
    return Last(hidden[:, -1:], recon[0, 0])


def _through(
    blocks: Iterable[torch.nn.Module], kv: KV, h: Tensor, start: int
) -> Generator[None, None, Tensor]:
    """h (1, T, d) through a stack whose earlier positions are cached."""
    end = start + h.shape[1]
    mask = None
    if h.shape[1] > 1:
        # Query i stands at position start + i and sees the keys up to there.
        ones = torch.ones(h.shape[1], end, dtype=torch.bool, device=h.device)
        mask = ones.tril(diagonal=start)
    for layer, module in enumerate(blocks):
        block = cast(Block, module)
        q, k, v = block.project(h, start)
        kv.write(layer, start, k, v)
        keys, values = kv.read(layer, end)
        grouped = block.self_attn.n_kv_heads != block.self_attn.n_heads
        attended = F.scaled_dot_product_attention(
            q, keys[None], values[None], attn_mask=mask, enable_gqa=grouped
        )
        h = block.finish(h, attended)
        yield
    return h
