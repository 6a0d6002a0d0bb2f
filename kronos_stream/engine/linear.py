"""Matrix products of the engine: y = x Wᵀ + b over rows, in one pass with what follows them.

On a CPU the weights are laid out once as oneDNN wants them, and residual, silu and gate ride on the
product. A row of the result never depends on the other rows: that is what makes a forecast the same
whatever else is in its batch (tests/engine/test_linear.py holds it).
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_ROWS: Final = 8
"""Products of fewer rows may take another kernel, with other bits: they are padded."""


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN takes these weights (inductor's own operators, absent in some builds; bfloat16
    wants a processor with AVX-512 or more)."""
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    mkldnn = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(mkldnn, "_linear_pointwise")
        and (weight.dtype == torch.float32 or mkldnn._is_mkldnn_bf16_supported())
    )


class Linear:
    """One weight (out, in) and bias (out,) or none; every method takes rows (R, in)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        weight = weight.detach().contiguous()
        self._bias = None if bias is None else bias.detach()
        self._packed = _packs(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._packed else weight

    @classmethod
    def of(cls, *parts: nn.Linear, dtype: torch.dtype, device: torch.device) -> "Linear":
        """Linear layers of one input as one: their outputs side by side."""
        weights: list[Tensor] = [part.weight for part in parts]
        biases: list[Tensor] = [part.bias for part in parts if part.bias is not None]
        bias = torch.cat(biases).to(device, dtype) if biases else None
        return cls(torch.cat(weights).to(device, dtype), bias)

    def __call__(self, x: Tensor) -> Tensor:
        """x Wᵀ + b → (R, out)."""
        return self._rows(self._plain, x)

    def silu(self, x: Tensor) -> Tensor:
        """silu(x Wᵀ + b) → (R, out)."""
        return self._rows(self._silu, x)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """(x Wᵀ + b) · other, other (R, out) → (R, out)."""
        return self._rows(self._times, x, other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x Wᵀ + b + other, other (R, out) → (R, out)."""
        return self._rows(self._plus, x, other)

    def _rows(self, product: Callable[..., Tensor], x: Tensor, *other: Tensor) -> Tensor:
        missing = MIN_ROWS - x.shape[0]
        if missing <= 0:
            return product(x, *other)
        padding = (0, 0, 0, missing)
        return product(F.pad(x, padding), *(F.pad(o, padding) for o in other))[: x.shape[0]]

    def _plain(self, x: Tensor) -> Tensor:
        if self._packed:
            return self._one("none", x)
        return F.linear(x, self._weight, self._bias)

    def _silu(self, x: Tensor) -> Tensor:
        return self._one("swish", x) if self._packed else F.silu(self._plain(x), inplace=True)

    def _times(self, x: Tensor, other: Tensor) -> Tensor:
        return self._two("mul", x, other) if self._packed else self._plain(x).mul_(other)

    def _plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self._two("add", x, other) if self._packed else self._plain(x).add_(other)

    def _one(self, what: str, x: Tensor) -> Tensor:
        out: Any = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, what, [], "")
        return out  # type: ignore[no-any-return]

    def _two(self, what: str, x: Tensor, other: Tensor) -> Tensor:
        out: Any = torch.ops.mkldnn._linear_pointwise.binary(
            x, other, self._weight, self._bias, what
        )
        return out  # type: ignore[no-any-return]
