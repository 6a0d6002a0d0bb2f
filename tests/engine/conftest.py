import shutil
from collections.abc import Iterator

import pytest

from kronos_stream.engine import native


@pytest.fixture(params=["compiled", "torch"])
def steps(request: pytest.FixtureRequest) -> Iterator[None]:
    """The engine's small steps, both as compiled kernels and in torch."""
    if request.param == "compiled" and shutil.which(native.COMPILER) is None:
        pytest.skip(f"no {native.COMPILER}")
    native.choose(request.param == "compiled")
    assert (native.available() is not None) == (request.param == "compiled"), native.used()
    yield
    native.choose(True)
