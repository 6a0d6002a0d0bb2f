"""The folder kernels/, compiled where g++ is at hand: products that read the next weights while
they multiply, and the small steps between them, each in one pass instead of five to ten.
`kernels()` is None where it is not; what calls it then does the same arithmetic in torch, with
other bits in the last places.

The library is compiled once for a processor, into the user's cache folder.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

FOLDER: Final = Path(__file__).with_name("kernels")
COMPILER: Final = "g++"
FLAGS: Final = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp")
WIDTH: Final = 8
"""What widths must be multiples of."""
TIMEOUT_S: Final = 60

_wanted = True
_tried: "Kernels | str | None" = None
"""What trying gave: the kernels, or why there are none; None: not tried."""


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

        functions.panel.restype = number
        self._panel = int(functions.panel())
        self._product = function("product", *[array] * 4, *[number] * 4, array)
        self._norm = function("rms_norm", *[array] * 2, ctypes.c_float, *[number] * 2, array)
        self._rotate = function("rotate", *[array] * 3, *[number] * 4)
        self._append = function("append", *[array] * 4, *[number] * 6)
        self._attend = function("attend", *[array] * 7, *[number] * 9, array)

    def product(self, weight: Tensor, bias: Tensor | None) -> "Product | None":
        """Of a weight (out, in) and bias (out,); None where their width does not fit."""
        out, wide = weight.shape
        if out % self._panel:
            return None
        panels = weight.view(-1, self._panel, wide).transpose(1, 2).contiguous()
        return Product(self._product, panels, bias, out, gated=False)

    def gate(self, w1: Tensor, w3: Tensor) -> "Product | None":
        """silu(x W1ᵀ) · (x W3ᵀ) of weights (out, in); None where their width does not fit."""
        out, wide = w1.shape
        half = self._panel // 2
        if out % half:
            return None
        both = torch.cat([w.view(-1, half, wide) for w in (w1, w3)], dim=1)
        return Product(self._product, both.transpose(1, 2).contiguous(), None, out, gated=True)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / rms(x) · weight, x (R, width) → (R, width)."""
        x, out = x.contiguous(), torch.empty(x.shape, dtype=torch.float32)
        self._norm(x.data_ptr(), weight.data_ptr(), eps, *x.shape, out.data_ptr())
        return out

    def rotate(self, x: Tensor, cosines: Tensor, sines: Tensor) -> None:
        """The half-rotation in place of x (R, heads, D), whose rows may lie apart; cosines
        (R, 1, D) and sines (R, 1, D/2)."""
        self._rotate(x.data_ptr(), cosines.data_ptr(), sines.data_ptr(), *x.shape, x.stride(0))

    def append(self, keys: Tensor, values: Tensor, places: "Places", step: int) -> None:
        """Keys and values (R, K, D), whose rows lie equally far apart, to one of its own steps."""
        self._append(
            *(keys.data_ptr(), values.data_ptr(), *places.own),
            *(*keys.shape, keys.stride(0), places.steps, step),
        )

    def attend(self, q: Tensor, places: "Places", seen: int) -> Tensor:
        """q (R, H, D), whose rows may lie apart, over the prefix of each lane and the first `seen`
        of each row's own steps."""
        rows, heads, width = q.shape
        out = torch.empty(q.shape, dtype=torch.float32)
        self._attend(
            *(q.data_ptr(), *places.prefix, *places.own),
            *(*places.lanes, places.count, rows // places.count),
            *(heads, places.kv_heads, width, q.stride(0), places.length, places.steps, seen),
            out.data_ptr(),
        )
        return out


class Product:
    """x Wᵀ with what follows it, by a weight that is laid out in panels of columns."""

    def __init__(
        self,
        function: Callable[..., None],
        panels: Tensor,
        bias: Tensor | None,
        width: int,
        *,
        gated: bool,
    ) -> None:
        self._function, self._tensors = function, (panels, bias)
        self._added = panels.data_ptr(), None if bias is None else bias.data_ptr()
        self._width, self._gated = width, gated

    def __call__(self, x: Tensor) -> Tensor:
        """x (R, in) → (R, out)."""
        return self._of(x.contiguous(), None)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x (R, in) and other (R, out), which is added → (R, out)."""
        other = other.contiguous()
        return self._of(x.contiguous(), other.data_ptr())

    def _of(self, x: Tensor, other: int | None) -> Tensor:
        rows, depth = x.shape
        out = torch.empty(rows, self._width)
        self._function(
            *(x.data_ptr(), *self._added, other),
            *(rows, depth, self._width, self._gated, out.data_ptr()),
        )
        return out


class Places:
    """The places of what the rows of some lanes look at in one layer: prefixes (slots, K, L, D) of
    which each lane sees a slot to some length, and each row's own steps (R, K, S, D). The tensors
    must outlive it."""

    def __init__(
        self,
        prefix: tuple[Tensor, Tensor],
        own: tuple[Tensor, Tensor],
        lanes: Sequence[tuple[int, int]],
    ) -> None:
        _, self.kv_heads, self.length, _ = prefix[0].shape
        self.steps = own[0].shape[2]
        self.prefix, self.own = ([t.data_ptr() for t in both] for both in (prefix, own))
        self.lanes = [(ctypes.c_int64 * len(lanes))(*part) for part in zip(*lanes, strict=True)]
        self.count = len(lanes)


def choose(wanted: bool) -> None:
    """Whether this process is to use compiled kernels from now on."""
    global _wanted
    _wanted = wanted


def kernels(x: Tensor) -> Kernels | None:
    """The compiled kernels, if they are for such a tensor and its width."""
    fits = x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[-1] % WIDTH == 0
    return available() if fits else None


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


def compiled() -> Path:
    """The library for this processor, compiled if it is not there yet. CompileError or OSError
    says why it cannot be."""
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise CompileError(f"no {COMPILER}")
    # What the compiler makes of `native`, its version included.
    target = _run(compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull)
    if "__clang__" in target:
        raise CompileError(f"{COMPILER} is clang, whose OpenMP is another than torch's")
    openmp = _openmp()
    told = "\n".join((target, *FLAGS, Path(openmp).name)).encode()
    sources = sorted(FOLDER.glob("*.cpp"))
    texts = b"".join(path.read_bytes() for path in (*sources, *sorted(FOLDER.glob("*.h"))))
    key = hashlib.sha256(texts + told).hexdigest()[:16]
    library = _folder() / f"{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            _run(compiler, *FLAGS, "-c", *map(str, sources), within=scratch)
            parts = [f"{source.stem}.o" for source in sources]
            _run(compiler, "-shared", *parts, openmp, "-o", "kernels.so", within=scratch)
            # Several processes may come here at once: each puts a whole file in place.
            Path(scratch, "kernels.so").replace(library)
    _check_ours(library)
    return library


def _loaded(library: Path) -> Kernels:
    try:
        return Kernels(library)
    except OSError:
        # Whatever is wrong with it, the next process may make a better one.
        library.unlink(missing_ok=True)
        raise


def _folder() -> Path:
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise CompileError(f"no cache folder: {error}") from error
    folder = cache / "kronos-stream" / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_ours(folder.parent)
    _check_ours(folder)
    return folder


def _check_ours(path: Path) -> None:
    """What is loaded is run: nobody else may have put it there."""
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o002:
        raise CompileError(f"{path} belongs to another user, or anybody may write it")


def _openmp() -> str:
    """The OpenMP library that torch has loaded: another one would have threads of its own, which
    fight for the cores."""
    loaded = re.search(r"/\S*/libgomp\S*", Path("/proc/self/maps").read_text())
    if loaded is None:
        raise CompileError("torch uses another OpenMP than libgomp")
    return loaded[0]


def _run(*command: str, within: str | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=within,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise CompileError(f"{command[0]}: {error.stderr.strip()[-200:]}") from error
    except subprocess.TimeoutExpired as error:
        raise CompileError(str(error)) from error
    return done.stdout
