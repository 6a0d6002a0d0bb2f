"""The prefix cache: keys and values of each symbol's context, in slots allocated once and reused.

A slot belongs to one symbol at a time; the least recently used one is taken for a new symbol. Its
prefix says exactly what it was computed from: any other anchor, bar or model is a miss.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

import torch

from ..errors import EngineError
from ..model.kronos import FINE_HEADS
from ..wire.messages import ForecastSpec
from .kv import KV, kept
from .networks import Networks, Stack
from .plans import Prefix

MAX_CHUNK: Final = 136
"""Bars prefilled at once, at most: one layer of it takes some milliseconds on two cores."""


def chunk_of(bars: int) -> int:
    """Rows of each chunk of a prefix of `bars`: as few chunks as may be, all of one size, a
    multiple of 8. A function of the settings alone, so that the shapes and with them the bits are
    the same every time."""
    chunks = -(-bars // MAX_CHUNK)
    return -(-bars // (8 * chunks)) * 8


class Prefixes(NamedTuple):
    """What a rollout reads: the model, its fine head, and the tokenizer's decoder."""

    model: KV
    fine: KV
    decoder: KV


class Slot:
    """What is cached of one symbol's context: `prefix`, as far as `pending` has come, and behind
    it the bars of `tail` (one digest each)."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.forget()

    def forget(self) -> None:
        """Nothing is cached from now on."""
        self.prefix: Prefix | None = None
        self.pending: Iterator[None] | None = None
        self.tail: list[bytes] = []

    def holds(self, prefix: Prefix) -> bool:
        """Whether this prefix is there or on its way."""
        return self.prefix is not None and self.prefix.key == prefix.key


class PrefixCache:
    """Slots by symbol, least recently used first; `budget_bytes` bounds their memory, which is
    keys and values and nothing else."""

    def __init__(self, nets: Networks, spec: ForecastSpec, budget_bytes: int) -> None:
        prefix = spec.lookback - (spec.anchor_every == 0)
        self.chunk = chunk_of(prefix)
        padded = -(-prefix // self.chunk) * self.chunk
        length = max(padded, spec.lookback + max(1, spec.anchor_every))

        def shape(stack: Stack) -> tuple[int, int, int, int]:
            return len(stack.layers), stack.kv_heads, length, stack.head_width

        fine = 1, FINE_HEADS, length, nets.fine.head_width
        shapes = shape(nets.model), fine, shape(nets.encoder), shape(nets.decoder)
        of_model = (kept(nets.dtype, nets.device, width) for *_, width in shapes[:2])
        dtypes = (*of_model, torch.float32, torch.float32)
        self.slot_bytes = sum(
            2 * dtype.itemsize * torch.Size(shape).numel()
            for shape, dtype in zip(shapes, dtypes, strict=True)
        )
        self.capacity = max(1, budget_bytes // self.slot_bytes)
        try:
            self.model, self.fine, self.encoder, self.decoder = (
                KV(layers, self.capacity, heads, length, width, dtype, nets.device)
                for (layers, heads, length, width), dtype in zip(shapes, dtypes, strict=True)
            )
        except RuntimeError as error:
            raise EngineError(
                f"model.cache_mib: {budget_bytes // 2**20} MiB cannot be allocated on {nets.device}"
            ) from error
        self.prefixes = Prefixes(self.model, self.fine, self.decoder)
        self._made = 0
        self._free: list[Slot] = []
        self._used: OrderedDict[str, Slot] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    def has_room_for(self, symbol: str) -> bool:
        """Whether the symbol's slot costs no other symbol its own."""
        return symbol in self._used or len(self._used) < self.capacity

    def slot(self, symbol: str) -> Slot:
        """The symbol's slot, now the most recently used; it may hold nothing of use."""
        slot = self._used.pop(symbol, None) or self._spare()
        self._used[symbol] = slot
        return slot

    def known(self, symbol: str) -> Prefix | None:
        """The prefix that the symbol's slot holds, or will."""
        slot = self._used.get(symbol)
        return None if slot is None else slot.prefix

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
            self._made += 1
            return Slot(self._made - 1)
        _, slot = self._used.popitem(last=False)
        slot.forget()
        return slot
