"""Compiles the folder kernels/ where g++ is at hand: once for a processor, into the user's cache
folder.
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).with_name("kernels")
SOURCE: Final = "kernels.cpp"
COMPILER: Final = "g++"
FUSED: Final = "--param=avoid-fma-max-bits=0"
"""Without it, tuning for some processors takes a product and a sum apart in one loop and not in the
next one: a row would have other bits in another place."""
FLAGS: Final = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", FUSED)
TIMEOUT_S: Final = 60
OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class CompileError(Exception):
    """Why there is no library."""


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
    texts = b"".join(path.read_bytes() for path in sorted(FOLDER.iterdir()))
    key = hashlib.sha256(texts + told).hexdigest()[:16]
    library = _folder() / f"{key}.so"
    if library.exists() and library.lstat().st_mode & OTHERS_MAY_WRITE:
        library.unlink()
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            _run(compiler, *FLAGS, "-c", str(FOLDER / SOURCE), "-o", "kernels.o", within=scratch)
            _run(compiler, "-shared", "kernels.o", openmp, "-o", "kernels.so", within=scratch)
            made = Path(scratch, "kernels.so")
            made.chmod(0o700)
            # Several processes may come here at once: each puts a whole file in place.
            made.replace(library)
    _check_ours(library)
    return library


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
    """What is loaded is run: nobody else may have put it there. A folder that our group may write,
    as some systems make all of them, is closed to it."""
    found = path.lstat()
    ours = found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode)
    if not ours or found.st_mode & stat.S_IWOTH:
        raise CompileError(f"{path} is another user's or a link, or anybody may write it")
    if found.st_mode & stat.S_IWGRP:
        path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS_MAY_WRITE)


def _openmp() -> str:
    """The OpenMP library that torch has loaded: another one would have threads of its own, which
    fight for the cores."""
    loaded = re.search(r"/.*/libgomp\S*", Path("/proc/self/maps").read_text())
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
