"""kernels.cpp, compiled where g++ is at hand: the small steps between matrix products, each in one
pass instead of five to ten. `kernels()` is None where it is not; what calls it then does the same
arithmetic in torch, with other bits in the last places.

The library is compiled once for a processor, into the user's cache folder.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

SOURCE: Final = Path(__file__).with_name("kernels.cpp")
FLAGS: Final = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp")
WIDTH: Final = 8
"""What widths must be multiples of."""
TIMEOUT_S: Final = 60

_wanted = True
_found: "Kernels | None" = None
_looked = False


class CompileError(Exception):
    """Why there is no library."""


class Kernels:
    """The functions of a compiled library; tensors are float32 on the CPU."""

    def __init__(self, library: Path) -> None:
        functions = ctypes.CDLL(str(library))
        array, number = ctypes.c_void_p, ctypes.c_int64

        def function(name: str, *arguments: Any) -> Callable[..., None]:
            found: Any = getattr(functions, name)
            found.argtypes, found.restype = arguments, None
            return found  # type: ignore[no-any-return]

        self._norm = function("rms_norm", *[array] * 2, ctypes.c_float, *[number] * 2, array)
        self._rotate = function("rotate", *[array] * 3, *[number] * 4)
        self._attend = function("attend", *[array] * 7, *[number] * 9, array)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / rms(x) · weight, x (R, width) → (R, width)."""
        x, out = x.contiguous(), torch.empty(x.shape)
        self._norm(x.data_ptr(), weight.data_ptr(), eps, *x.shape, out.data_ptr())
        return out

    def rotate(self, x: Tensor, cosines: Tensor, sines: Tensor) -> None:
        """The half-rotation in place of x (R, heads, D), whose rows may lie apart; cosines
        (R, 1, D) and sines (R, 1, D/2)."""
        self._rotate(x.data_ptr(), cosines.data_ptr(), sines.data_ptr(), *x.shape, x.stride(0))

    def attend(
        self,
        q: Tensor,
        prefix: tuple[Tensor, Tensor],
        own: tuple[Tensor, Tensor],
        lanes: Sequence[tuple[int, int]],
        seen: int,
    ) -> Tensor:
        """q (R, H, D), whose rows may lie apart, over the prefix (slots, K, L, D) of each lane (its
        slot and how much of it) and the first `seen` of each row's own (R, K, S, D)."""
        rows, heads, width = q.shape
        _, kv_heads, length, _ = prefix[0].shape
        slots, counts = ((ctypes.c_int64 * len(lanes))(*part) for part in zip(*lanes, strict=True))
        out = torch.empty(q.shape)
        self._attend(
            q.data_ptr(),
            *(t.data_ptr() for t in (*prefix, *own)),
            *(slots, counts, len(lanes), rows // len(lanes)),
            *(heads, kv_heads, width, q.stride(0), length, own[0].shape[2], seen),
            out.data_ptr(),
        )
        return out


def choose(wanted: bool) -> None:
    """Whether this process is to use compiled kernels from now on."""
    global _wanted
    _wanted = wanted


def kernels(x: Tensor, width: int) -> Kernels | None:
    """The compiled kernels, if they are for such a tensor and width."""
    fits = x.device.type == "cpu" and x.dtype == torch.float32 and width % WIDTH == 0
    return available() if fits else None


def available() -> Kernels | None:
    """The compiled kernels, if this process is to use them and can; compiles them if need be."""
    global _found, _looked
    if not _wanted:
        return None
    if not _looked:
        _looked = True
        try:
            _found = Kernels(compiled())
        except (CompileError, OSError):
            _found = None
    return _found


def compiled() -> Path:
    """The library for this processor, compiled if it is not there yet. CompileError says why it
    cannot be."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise CompileError("no g++")
    # What the compiler makes of `native`, its version included.
    target = _run(compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull)
    if "__clang__" in target:
        raise CompileError("clang, whose OpenMP is another than torch's")
    openmp = _openmp()
    told = f"{target}\n{Path(openmp).name}".encode()
    key = hashlib.sha256(SOURCE.read_bytes() + told).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kronos-stream"
    library = folder / f"kernels-{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made, parts = Path(scratch) / "kernels.so", Path(scratch) / "kernels.o"
            _run(compiler, *FLAGS, "-c", str(SOURCE), "-o", str(parts))
            _run(compiler, "-shared", str(parts), openmp, "-o", str(made))
            # Several processes may come here at once: each puts a whole file in place.
            made.replace(library)
    return library


def _openmp() -> str:
    """Torch's own OpenMP library: another one would have threads of its own, which fight for the
    cores."""
    bundled = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return str(bundled[0]) if bundled else "-lgomp"


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
    except subprocess.CalledProcessError as error:
        raise CompileError(error.stderr) from error
    except subprocess.TimeoutExpired as error:
        raise CompileError(str(error)) from error
    return done.stdout
