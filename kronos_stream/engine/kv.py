"""Keys and values in slots, one symbol's context in each."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import native


def kept(dtype: torch.dtype, device: torch.device, width: int) -> torch.dtype:
    """What keys and values of heads so wide are kept in where products are in `dtype`: on a CPU in
    float32, unless the compiled kernels read the other."""
    if device.type != "cpu" or native.reading(torch.empty(0, width, dtype=dtype)):
        return dtype
    return torch.float32


class Lane(NamedTuple):
    """Where the rows of one symbol look: its slot, and how many positions of it."""

    slot: int
    length: int


class KV:
    """Keys and values of a stack of blocks in every slot: (layers, slots, K, length, D) each."""

    def __init__(
        self,
        layers: int,
        slots: int,
        heads: int,
        length: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (layers, slots, heads, length, width)
        # Not zeroed: the system gives a CPU's pages only when a slot is first written.
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    def places(self, lanes: Sequence[Lane], each: int) -> tuple[Tensor, Tensor]:
        """Slots and positions (R,) of `each` rows behind every lane."""
        rows = [(slot, length + i) for slot, length in lanes for i in range(each)]
        slots, positions = torch.tensor(rows, device=self.keys.device).unbind(1)
        return slots, positions

    def write(
        self, layer: int, places: tuple[Tensor, Tensor], keys: Tensor, values: Tensor
    ) -> None:
        """Keys and values (R, K, D), each row to its slot and position."""
        slots, positions = places
        self.keys[layer][slots, :, positions] = keys
        self.values[layer][slots, :, positions] = values

    def read(self, layer: int, slot: int, length: int, *, slots: int) -> tuple[Tensor, Tensor]:
        """Keys and values (slots, K, length, D) of some slots from `slot` on, not copied."""
        some = slice(slot, slot + slots)
        return self.keys[layer, some, :, :length], self.values[layer, some, :, :length]

    def like(self, slots: int) -> "KV":
        """As many layers of another number of slots, zeroed: rows that pad a batch look at slots
        that were never written, and what they see must be finite."""
        layers, _, heads, length, width = self.keys.shape
        made = KV(layers, slots, heads, length, width, self.keys.dtype, self.keys.device)
        made.keys.zero_()
        made.values.zero_()
        return made

    def copy_from(self, other: "KV", slots: Tensor) -> None:
        """The other's `slots` (S,) into the first S of these."""
        self.keys[:, : len(slots)] = other.keys[:, slots]
        self.values[:, : len(slots)] = other.values[:, slots]
