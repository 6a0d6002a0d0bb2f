"""Fixtures that every test may use."""

from pathlib import Path

import pytest

from .services.plugin import kafka_bootstrap, redis_url, topic_prefix

__all__ = ["kafka_bootstrap", "redis_url", "shared", "topic_prefix"]

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden values beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared folder beside the checkout: real data and golden values absent")
    return SHARED
