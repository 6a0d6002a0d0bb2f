"""What the tests of the commands share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kronos_stream.engine import loading
from tests.engine.requests import tiny_pair
from tests.threads import threads

from .samples import series_of, write_series


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model that loads at once, whatever is asked for."""
    monkeypatch.setattr(loading, "load_pair", lambda *args, **options: tiny_pair())
    with threads(1):
        yield


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bars of two symbols."""
    folder = tmp_path_factory.mktemp("bars")
    return write_series(folder, series_of("AAA", 900), series_of("BBB", 900, without=(700,)))
