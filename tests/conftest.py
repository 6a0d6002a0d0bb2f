"""Fixtures that every test may use."""

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from kronos_stream.engine.environment import set_defaults

from .services.plugin import kafka_bootstrap, redis_url, topic_prefix

__all__ = ["kafka_bootstrap", "redis_url", "shared", "topic_prefix"]

# As in the engine's process; no test has imported torch yet. One thread, because the models of the
# tests are tiny, and threads that wait for one another wait long where others use the cores, too;
# what must hold for several threads asks for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
set_defaults()

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden values beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared folder beside the checkout: real data and golden values absent")
    return SHARED


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every async test runs on the loop that the product runs on."""
    return {"uvloop": uvloop.new_event_loop}
