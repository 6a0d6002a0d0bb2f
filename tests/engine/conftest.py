from collections.abc import Iterator

import pytest

from kronos_stream.engine import native


@pytest.fixture(params=["compiled", "torch"])
def steps(request: pytest.FixtureRequest) -> Iterator[None]:
    """The engine's small steps, both as compiled kernels and in torch."""
    if request.param == "compiled" and native.available() is None:
        pytest.skip("no g++")
    native.choose(request.param == "compiled")
    yield
    native.choose(True)
