"""Matrix products of the engine: y = x Wᵀ + b over rows, in one pass with what follows them.

On a CPU the weights are laid out once, as our compiled kernels or else oneDNN want them, and
residual and gate ride on the product. A row of the result never depends on the other rows: that is
what makes a forecast the same whatever else is in its batch (tests/engine/test_linear.py holds it).

In bfloat16 a GPU keeps rows in it throughout, a CPU only within products: between them rows are
float32, for the same kernels as ever. A CPU that has no products in bfloat16 rounds the weights to
it and multiplies in float32.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import native

_mkldnn = torch.ops.mkldnn

MIN_ROWS: Final = 8
"""oneDNN's products of fewer rows may take another kernel, with other bits: they are padded."""
TILED_ROWS: Final = 64
"""With AMX oneDNN sums in an order that depends on the number of rows: it always gets so many."""


class Product(Protocol):
    """One weight (out, in) and bias (out,) or none, for rows (R, in)."""

    def __call__(self, x: Tensor) -> Tensor:
        """x Wᵀ + b → (R, out)."""
        ...

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x Wᵀ + b + other, other (R, out) → (R, out)."""
        ...


def between(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Of rows between products in `dtype`."""
    return torch.float32 if device.type == "cpu" else dtype


def product(*parts: nn.Linear, dtype: torch.dtype, device: torch.device) -> Product:
    """Linear layers of one input as one: their outputs side by side."""
    weight = _joined([part.weight for part in parts], dtype, device)
    biases: list[Tensor] = [part.bias for part in parts if part.bias is not None]
    bias = _joined(biases, dtype, device) if biases else None
    found = _compiled(weight)
    if ours := found and found.product(weight, bias):
        return ours
    plain = _of_torch(weight, bias)
    rounds = weight.dtype != between(dtype, device)
    return _Rounding(plain) if rounds else plain


class Gate:
    """silu(x W1ᵀ) · (x W3ᵀ) of two linear layers without biases."""

    def __init__(
        self, w1: nn.Linear, w3: nn.Linear, dtype: torch.dtype, device: torch.device
    ) -> None:
        both = [_joined([part.weight], dtype, device) for part in (w1, w3)]
        found = _compiled(both[0])
        self.compiled = found and found.gate(*both)
        if self.compiled is None:
            self._w1, self._w3 = (_of_torch(weight, None) for weight in both)
        self._dtype = both[0].dtype

    def __call__(self, x: Tensor) -> Tensor:
        """x (R, in) → (R, out), in a dtype that a product takes."""
        if self.compiled:
            return self.compiled(x)
        x = x.to(self._dtype)
        return self._w3.times(x, self._w1.silu(x))


class _Plain:
    """By torch."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(self(x), inplace=True)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return self(x).mul_(other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self(x).add_(other)


class _OneDnn:
    """By oneDNN, with what follows in the same pass."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = _mkldnn._reorder_linear_weight(weight), bias
        self._tiled = _is_tiled(weight)

    def __call__(self, x: Tensor) -> Tensor:
        return self._one("none", x)

    def silu(self, x: Tensor) -> Tensor:
        return self._one("swish", x)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return self._two("mul", x, other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self._two("add", x, other)

    def _one(self, what: str, x: Tensor) -> Tensor:
        parts = [
            _mkldnn._linear_pointwise(part, self._weight, self._bias, what, [], "")
            for part in self._parts(x)
        ]
        return _together(parts)[: len(x)]

    def _two(self, what: str, x: Tensor, other: Tensor) -> Tensor:
        parts = [
            _mkldnn._linear_pointwise.binary(*pair, self._weight, self._bias, what)
            for pair in zip(self._parts(x), self._parts(other), strict=True)
        ]
        return _together(parts)[: len(x)]

    def _parts(self, x: Tensor) -> Sequence[Tensor]:
        """What oneDNN is given at once: all rows, or blocks of TILED_ROWS."""
        if not self._tiled:
            return (_padded(x, MIN_ROWS),)
        return torch.split(_padded(x, -(-len(x) // TILED_ROWS) * TILED_ROWS), TILED_ROWS)


class _Rounding:
    """By another in bfloat16, of float32 to float32."""

    def __init__(self, rounded: "_OneDnn | _Plain") -> None:
        self._rounded = rounded

    def __call__(self, x: Tensor) -> Tensor:
        return self._rounded(x.bfloat16()).float()

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self._rounded(x.bfloat16()) + other


def _compiled(weight: Tensor) -> native.Kernels | None:
    """The kernels, if products by it are theirs. AMX multiplies bfloat16 faster than what they use:
    that is oneDNN's."""
    return None if _is_tiled(weight) else native.reading(weight)


def _is_tiled(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by it with AMX."""
    return weight.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()


def _of_torch(weight: Tensor, bias: Tensor | None) -> _OneDnn | _Plain:
    return _OneDnn(weight, bias) if _packs(weight) else _Plain(weight, bias)


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN takes these weights, by inductor's own operators, absent in some builds."""
    return weight.device.type == "cpu" and _has_onednn() and hasattr(_mkldnn, "_linear_pointwise")


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device has instructions for products in it. oneDNN calls bfloat16 supported where
    it makes do with AVX-512's float32, too."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return True
    makes_do = torch.cpu._is_avx512_supported() and not torch.cpu._is_avx512_bf16_supported()
    return _has_onednn() and bool(_mkldnn._is_mkldnn_bf16_supported()) and not makes_do


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call, no-any-return]


def _joined(parts: list[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    whole = torch.cat(parts).detach().to(device, dtype)
    return whole if multiplies(dtype, device) else whole.float()


def _padded(x: Tensor, rows: int) -> Tensor:
    """At least so many rows."""
    return F.pad(x, (0, 0, 0, rows - len(x))) if len(x) < rows else x


def _together(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]
