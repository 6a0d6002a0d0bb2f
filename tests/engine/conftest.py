import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
import torch

from kronos_stream.engine import compiler, linear, native

needs_compiler = pytest.mark.skipif(
    shutil.which(compiler.COMPILER) is None, reason=f"no {compiler.COMPILER}"
)


OTHER: Final = (
    "-O0",
    *compiler.FLAGS[1:],
    "-mno-avx512f" if torch.cpu._is_avx512_supported() else "-D__AVX512F__",
)
"""Makes of the kernels what another processor gets, without AVX-512 where this one has it and with
its vectors in this one's instructions where not; not optimised, which would take long."""


@contextmanager
def computing(way: str) -> Iterator[None]:
    """On a CPU with "compiled" kernels, these in the "other" width of vectors, or by "torch"."""
    if way == "other":
        with pytest.MonkeyPatch.context() as patch, computing("compiled"):
            patch.setattr(compiler, "FLAGS", OTHER)
            patch.setattr(native, "_tried", None)
            assert native.available() is not None, native.used()
            yield
        return
    if way == "compiled" and shutil.which(compiler.COMPILER) is None:
        pytest.skip(f"no {compiler.COMPILER}")
    native.choose(way == "compiled")
    try:
        assert (native.available() is not None) == (way == "compiled"), native.used()
        yield
    finally:
        native.choose(True)


@contextmanager
def multiplying_in_bfloat16(*, tiles: bool = False) -> Iterator[None]:
    """As on a CPU that has bfloat16: by the compiled kernels if these are chosen, else, or where it
    has `tiles`, by oneDNN, or by torch where it cannot."""
    with pytest.MonkeyPatch.context() as patch:
        found = native.available()
        if found or tiles:
            patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
        if found:
            patch.setattr(found, "dtypes", (torch.float32, torch.bfloat16))
        if not linear.multiplies(torch.bfloat16, torch.device("cpu")):
            patch.setattr(linear, "multiplies", lambda dtype, device: True)
            patch.setattr(linear, "_packs", lambda weight: False)
        yield


@pytest.fixture(params=["compiled", "torch"])
def steps(request: pytest.FixtureRequest) -> Iterator[None]:
    """The engine's kernels, both compiled and torch's."""
    with computing(request.param):
        yield


@pytest.fixture(params=["compiled", "other", "torch"])
def every_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same, and the compiled ones in vectors of either width."""
    with computing(request.param):
        yield


@pytest.fixture(params=["compiled", "other"])
def vectors(request: pytest.FixtureRequest) -> Iterator[None]:
    """The compiled kernels, in vectors of either width."""
    with computing(request.param):
        yield
