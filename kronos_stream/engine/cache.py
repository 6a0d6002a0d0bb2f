"""The prefix cache: keys and values of each symbol's context, in slots allocated once and reused.

A slot belongs to one symbol at a time; the least recently used one is taken for a new symbol. Its
key says exactly what it was computed from: any other anchor, bar or model is a miss.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, cast

import torch
from torch import Tensor, nn

from ..model.kronos import FINE_HEADS, Kronos
from ..model.tokenizer import KronosTokenizer
from ..model.transformer import Block
from ..wire.messages import ForecastSpec

CHUNK: Final = 64
"""Bars prefilled at once, always as many rows: fixed shapes give the same bits every time."""


class KV:
    """Keys and values of a stack of blocks: (layers, heads, length, width) each."""

    def __init__(
        self,
        layers: int,
        heads: int,
        length: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (layers, heads, length, width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        """Memory of both."""
        return 2 * self.keys.element_size() * self.keys.numel()

    def write(self, layer: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Keys and values (1, heads, T, width) of the positions from `start` on."""
        end = start + keys.shape[2]
        self.keys[layer, :, start:end] = keys[0]
        self.values[layer, :, start:end] = values[0]

    def read(self, layer: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values (heads, end, width) of the positions before `end`, not copied."""
        return self.keys[layer, :, :end], self.values[layer, :, :end]


class Slot:
    """What is cached of one symbol's context: the prefix that `key` names, as far as `pending`
    has come, and behind it the bars of `tail` (one digest each)."""

    def __init__(
        self, model: Kronos, tokenizer: KronosTokenizer, spec: ForecastSpec, device: torch.device
    ) -> None:
        padded = math.ceil(spec.lookback / CHUNK) * CHUNK
        length = max(padded, spec.lookback + max(1, spec.anchor_every))
        dtype = model.norm.weight.dtype
        fine_width = model.dep_layer.cross_attn.head_width
        self.model = _stack(model.transformer, length, dtype, device)
        self.fine = KV(1, FINE_HEADS, length, fine_width, dtype, device)
        self.encoder = _stack(tokenizer.encoder, length, torch.float32, device)
        self.decoder = _stack(tokenizer.decoder, length, torch.float32, device)
        self.forget()

    def forget(self) -> None:
        """Nothing is cached from now on."""
        self.key = b""
        self.pending: Iterator[None] | None = None
        self.tail: list[bytes] = []

    @property
    def nbytes(self) -> int:
        """Memory of the slot: all of it is keys and values."""
        return sum(kv.nbytes for kv in (self.model, self.fine, self.encoder, self.decoder))


class PrefixCache:
    """Slots by symbol, least recently used first; `budget_bytes` bounds their memory."""

    def __init__(
        self,
        model: Kronos,
        tokenizer: KronosTokenizer,
        spec: ForecastSpec,
        device: torch.device,
        budget_bytes: int,
    ) -> None:
        self._settled = (model, tokenizer, spec, device)
        first = Slot(*self._settled)
        self.slot_bytes = first.nbytes
        self.capacity = max(1, budget_bytes // self.slot_bytes)
        self._free = [first]
        self._used: OrderedDict[str, Slot] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    def has_room_for(self, symbol: str) -> bool:
        """Whether the symbol's slot costs no other symbol its own."""
        return symbol in self._used or len(self._used) < self.capacity

    def slot(self, symbol: str) -> Slot:
        """The symbol's slot, now the most recently used; it may hold nothing of use."""
        slot = self._used.pop(symbol, None)
        if slot is None:
            slot = self._spare()
        self._used[symbol] = slot
        return slot

    def evict(self, symbol: str) -> None:
        """Gives the symbol's slot back."""
        slot = self._used.pop(symbol, None)
        if slot is not None:
            slot.forget()
            self._free.append(slot)

    def _spare(self) -> Slot:
        if self._free:
            return self._free.pop()
        if len(self._used) < self.capacity:
            return Slot(*self._settled)
        _, slot = self._used.popitem(last=False)
        slot.forget()
        return slot


def _stack(blocks: nn.ModuleList, length: int, dtype: torch.dtype, device: torch.device) -> KV:
    if len(blocks) == 0:
        return KV(0, 1, length, 1, dtype, device)
    attention = cast(Block, blocks[0]).self_attn
    return KV(len(blocks), attention.n_kv_heads, length, attention.head_width, dtype, device)
