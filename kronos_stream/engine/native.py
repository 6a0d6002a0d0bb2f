"""The compiled kernels, where there are any: products that read the next weights while they
multiply, and a whole layer in one call. `kernels()` is None where there are none; what calls it
then does the same arithmetic in torch, with other bits in the last places; in bfloat16 torch keeps
keys and values in float32, and rounds what products give.
"""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from .compiler import CompileError, compiled

WIDTH: Final = 8
"""What widths must be multiples of."""

_wanted = True
_tried: "Kernels | str | None" = None
"""What trying gave: the kernels, or why there are none; None: not tried."""


class Kernels:
    """The functions of a compiled library. Rows are float32 on the CPU; weights, keys and values
    any of `dtypes`."""

    def __init__(self, library: Path) -> None:
        functions = ctypes.CDLL(str(library))
        array, number = ctypes.c_void_p, ctypes.c_int64

        def function(name: str, *arguments: Any) -> Callable[..., None]:
            found: Any = getattr(functions, name)
            found.argtypes, found.restype = arguments, None
            return found  # type: ignore[no-any-return]

        functions.panel.restype = functions.pairs_pay.restype = number
        self._panel = int(functions.panel())
        self.dtypes = (torch.float32, torch.bfloat16) if functions.pairs_pay() else (torch.float32,)
        self.multiply = function("run_product", *[array] * 3, number, array)
        self.append = function("run_append", *[array] * 4, *[number] * 3)
        self.attend = function("run_attend", array, number, *[array] * 2, *[number] * 2, array)
        self.step = function("run_layer", *[array] * 4, *[number] * 2, array)
        self._norm = function("run_rms_norm", *[array] * 2, ctypes.c_float, *[number] * 2, array)
        self._rotate = function("run_rotate", *[array] * 3, *[number] * 4)

    def product(self, weight: Tensor, bias: Tensor | None) -> "Product | None":
        """Of a weight (out, in) and bias (out,); None where their width does not fit."""
        return self._product([weight], bias)

    def gate(self, w1: Tensor, w3: Tensor) -> "Product | None":
        """silu(x W1ᵀ) · (x W3ᵀ) of weights (out, in); None where their width does not fit."""
        return self._product([w1, w3], None)

    def _product(self, weights: list[Tensor], bias: Tensor | None) -> "Product | None":
        """Of one weight, or of the two of a gate, whose columns take turns in a panel."""
        out, wide = weights[0].shape
        dtype, columns = weights[0].dtype, self._panel // len(weights)
        if out % columns:
            return None
        inputs = torch.float32.itemsize // dtype.itemsize
        parts = [w.view(-1, columns, wide // inputs, inputs) for w in weights]
        panels = torch.cat(parts, dim=1).transpose(1, 2).contiguous()
        return Product(self, panels, bias, out, gated=len(weights) == 2)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / rms(x) · weight, x (R, width) → (R, width)."""
        x, out = x.contiguous(), torch.empty(x.shape, dtype=torch.float32)
        self._norm(x.data_ptr(), weight.data_ptr(), eps, *x.shape, out.data_ptr())
        return out

    def rotate(self, x: Tensor, cosines: Tensor, sines: Tensor) -> None:
        """The half-rotation in place of x (R, heads, D), whose rows may lie apart; cosines
        (R, 1, D) and sines (R, 1, D/2)."""
        self._rotate(x.data_ptr(), cosines.data_ptr(), sines.data_ptr(), *x.shape, x.stride(0))


class Product:
    """x Wᵀ with what follows it, by a weight in panels (panels, depth, columns, inputs of a
    number)."""

    def __init__(
        self, kernels: Kernels, panels: Tensor, bias: Tensor | None, width: int, *, gated: bool
    ) -> None:
        bias = None if bias is None else bias.float()
        self._multiply, self._tensors = kernels.multiply, (panels, bias)
        places = panels.data_ptr(), None if bias is None else bias.data_ptr()
        paired = panels.dtype == torch.bfloat16
        self.weights = _Weights(*places, panels.shape[1], width, gated, paired)

    def __call__(self, x: Tensor) -> Tensor:
        """x (R, in) → (R, out)."""
        return self._of(x, None)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x (R, in) and other (R, out), which is added → (R, out)."""
        other = other.contiguous()
        return self._of(x, other.data_ptr())

    def _of(self, x: Tensor, other: int | None) -> Tensor:
        # A gate whose width is not for these kernels gives its rows in bfloat16.
        x, rows = x.float().contiguous(), len(x)
        out = torch.empty(rows, self.weights.width)
        self._multiply(ctypes.byref(self.weights), x.data_ptr(), other, rows, out.data_ptr())
        return out


class Memory:
    """What the rows of some lanes look at in one layer: slots (slots, K, L, D) of which each lane
    fills one to some length, and what runs of `run` rows have of their own (R / run, K, S, D), if
    anything. The tensors must outlive it."""

    def __init__(
        self,
        kernels: Kernels,
        slots: tuple[Tensor, Tensor],
        own: tuple[Tensor, Tensor] | None,
        lanes: Sequence[tuple[int, int]],
        run: int,
    ) -> None:
        self._kernels = kernels
        _, self._kv_heads, length, _ = slots[0].shape
        tensors = slots if own is None else (*slots, *own)
        keys, values, *rest = (t.data_ptr() for t in tensors)
        of_lanes = ((ctypes.c_int64 * len(lanes))(*part) for part in zip(*lanes, strict=True))
        self.places = _Memory(
            *(keys, values, *(rest or (None, None)), *of_lanes),
            *(len(lanes), length, 0 if own is None else own[0].shape[2], run),
            slots[0].dtype == torch.bfloat16,
        )

    def append(self, keys: Tensor, values: Tensor, step: int) -> None:
        """Keys and values (R, K, D), whose rows lie equally far apart, to their places: of its own,
        from `step` on."""
        rows, heads, width = keys.shape
        self._kernels.append(
            *(keys.data_ptr(), values.data_ptr(), ctypes.byref(self.places)),
            *(ctypes.byref(_Heads(heads, heads, width)), rows, keys.stride(0), step),
        )

    def attend(self, q: Tensor, seen: int) -> Tensor:
        """q (R, H, D), whose rows may lie apart, over what each sees: of its own, the first row of
        a run sees `seen`, and every other row one more than the row before."""
        rows, heads, width = q.shape
        out = torch.empty(q.shape, dtype=torch.float32)
        self._kernels.attend(
            *(q.data_ptr(), q.stride(0), ctypes.byref(self.places)),
            *(ctypes.byref(_Heads(heads, self._kv_heads, width)), rows, seen, out.data_ptr()),
        )
        return out


class Layer:
    """A block in one call: its norms (d,), its products in order, and its heads (queries, keys and
    values, width of each)."""

    def __init__(
        self,
        kernels: Kernels,
        norms: tuple[Tensor, Tensor],
        eps: float,
        products: Sequence[Product],
        heads: tuple[int, int, int],
    ) -> None:
        self._step, self._kept = kernels.step, (norms, products)
        places = (norm.data_ptr() for norm in norms)
        weights = (product.weights for product in products)
        self._layer = _Layer(*places, eps, *weights, _Heads(*heads))

    def __call__(self, x: Tensor, turns: tuple[Tensor, Tensor], memory: Memory, step: int) -> None:
        """x (R, d) in place, its keys and values appended, of its own from `step` on."""
        cosines, sines = turns
        self._step(
            *(ctypes.byref(self._layer), ctypes.byref(memory.places)),
            *(cosines.data_ptr(), sines.data_ptr(), len(x), step, x.data_ptr()),
        )


class _Weights(ctypes.Structure):
    """products.h's Weights."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("panels", "bias")),
        *((name, ctypes.c_int64) for name in ("depth", "width", "gated", "paired")),
    )


class _Heads(ctypes.Structure):
    """attention.h's Heads."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("queries", "kv", "width"))


class _Memory(ctypes.Structure):
    """attention.h's Memory."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values", "own_keys", "own_values")),
        *((name, ctypes.POINTER(ctypes.c_int64)) for name in ("slots", "lengths")),
        *((name, ctypes.c_int64) for name in ("lanes", "length", "steps", "run", "paired")),
    )


class _Layer(ctypes.Structure):
    """kernels.cpp's Layer."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("norm1", "norm2")),
        ("eps", ctypes.c_float),
        *((name, _Weights) for name in ("qkv", "out", "gate", "w2")),
        ("heads", _Heads),
    )


def choose(wanted: bool) -> None:
    """Whether this process is to use compiled kernels from now on."""
    global _wanted
    _wanted = wanted


def kernels(x: Tensor) -> Kernels | None:
    """The compiled kernels, if they are for such rows."""
    return reading(x) if x.dtype == torch.float32 else None


def reading(kept: Tensor) -> Kernels | None:
    """The compiled kernels, if they read such weights, keys or values."""
    found = available() if kept.device.type == "cpu" and kept.shape[-1] % WIDTH == 0 else None
    return found if found and kept.dtype in found.dtypes else None


def available() -> Kernels | None:
    """The compiled kernels, if this process is to use them and can; compiles them if need be."""
    global _tried
    if not _wanted:
        return None
    if _tried is None:
        try:
            _tried = _loaded(compiled())
        except (CompileError, OSError) as error:
            _tried = str(error)
    return _tried if isinstance(_tried, Kernels) else None


def used() -> str:
    """Which kernels a CPU uses, and if torch's, why."""
    if available() is not None:
        return "compiled"
    return f"torch: {_tried}" if _wanted else "torch"


def _loaded(library: Path) -> Kernels:
    try:
        return Kernels(library)
    except OSError:
        # Whatever is wrong with it, the next process may make a better one.
        library.unlink(missing_ok=True)
        raise
