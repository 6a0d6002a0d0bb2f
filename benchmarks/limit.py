"""What a case would cost at the speed of one large matrix product: the operations that its
arithmetic needs, and how fast this machine multiplies.

Only work that serves the answer is counted: padding is not, nor is what is looked up in a table
instead of being multiplied out.
"""

import time
from dataclasses import dataclass

import torch

from tests.model.peer import Shape

SIDE = 4_096
TRIES = 5


def product_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """Operations a second of a SIDE³ product, the best of TRIES."""
    a = torch.randn(SIDE, SIDE, device=device).to(dtype)
    b = torch.randn(SIDE, SIDE, device=device).to(dtype)
    best = float("inf")
    for _ in range(TRIES):
        synchronised(device)
        began = time.perf_counter()
        torch.mm(a, b)
        synchronised(device)
        best = min(best, time.perf_counter() - began)
    return 2 * SIDE**3 / best


def synchronised(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Operations:
    """Multiplications and additions of a shape's parts, for one token each."""

    shape: Shape

    @property
    def blocks(self) -> int:
        """The weights of the model's blocks."""
        s = self.shape
        return 2 * s.layers * (4 * s.width**2 + 3 * s.width * s.ff)

    @property
    def memory(self) -> int:
        """Keys and values of the fine head."""
        return 2 * 2 * self.shape.width**2

    @property
    def heads(self) -> int:
        """Both heads, and what the fine one does behind its attention."""
        s = self.shape
        return 2 * (s.width**2 + 2 * s.width * 2**s.bits)

    @property
    def coder(self) -> int:
        """The weights of the tokenizer's encoder, or of its decoder."""
        s = self.shape
        layer = 4 * s.tokenizer_width**2 + 3 * s.tokenizer_width * s.tokenizer_ff
        return 2 * ((s.tokenizer_layers - 1) * layer + 6 * s.tokenizer_width)

    def attention(self, seen: int) -> int:
        """The model's attention over `seen` positions."""
        return 4 * self.shape.layers * self.shape.width * seen

    def fine_attention(self, seen: int) -> int:
        """The fine head's attention over `seen` positions."""
        return 4 * self.shape.width * seen

    def coder_attention(self, seen: int) -> int:
        """The attention of the tokenizer's encoder, or of its decoder."""
        s = self.shape
        return 4 * (s.tokenizer_layers - 1) * s.tokenizer_width * seen

    def prefill(self, bars: int) -> int:
        """Tokenise `bars` bars, and all that their keys and values need."""
        latents = 2 * 2 * self.shape.bits * self.shape.tokenizer_width
        weights = self.blocks + self.memory + 2 * self.coder + latents
        attention = sum(self.attention(i) + 2 * self.coder_attention(i) for i in range(1, bars + 1))
        return bars * weights + attention

    def close(self, context: int, paths: int, steps: int) -> int:
        """One new bar, then `paths` paths of `steps` tokens behind `context` bars."""
        newest = self.prefill(context) - self.prefill(context - 1)
        rolled = steps * (self.heads + self.coder) + (steps - 1) * (self.blocks + self.memory)
        rolled += sum(
            self.fine_attention(context + i) + self.coder_attention(context + i + 1)
            for i in range(steps)
        )
        rolled += sum(self.attention(context + i + 1) for i in range(steps - 1))
        return newest + paths * rolled
