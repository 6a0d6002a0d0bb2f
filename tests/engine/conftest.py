import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kronos_stream.engine import compiler, native

needs_compiler = pytest.mark.skipif(
    shutil.which(compiler.COMPILER) is None, reason=f"no {compiler.COMPILER}"
)


@contextmanager
def computing(way: str) -> Iterator[None]:
    """On a CPU with "compiled" kernels or by "torch"."""
    if way == "compiled" and shutil.which(compiler.COMPILER) is None:
        pytest.skip(f"no {compiler.COMPILER}")
    native.choose(way == "compiled")
    try:
        assert (native.available() is not None) == (way == "compiled"), native.used()
        yield
    finally:
        native.choose(True)


@pytest.fixture(params=["compiled", "torch"])
def steps(request: pytest.FixtureRequest) -> Iterator[None]:
    """The engine's kernels, both compiled and torch's."""
    with computing(request.param):
        yield
