"""Fixtures: a real Kafka and a real Valkey for the session, and names of its own for each test.

KRONOS_TEST_KAFKA (HOST:PORT) and KRONOS_TEST_REDIS (URL) name servers that already run.
"""

import os
import uuid
from collections.abc import Iterator

import pytest

from .kafka import Kafka
from .valkey import Valkey


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """HOST:PORT of a real Kafka."""
    running = os.environ.get("KRONOS_TEST_KAFKA")
    if running:
        yield running
        return
    kafka = Kafka()
    yield kafka.bootstrap
    kafka.close()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a real Valkey or Redis."""
    running = os.environ.get("KRONOS_TEST_REDIS")
    if running:
        yield running
        return
    valkey = Valkey()
    yield valkey.url
    valkey.close()


@pytest.fixture
def topic_prefix() -> str:
    """Topics and keys that no other test uses."""
    return f"t{uuid.uuid4().hex[:10]}"
