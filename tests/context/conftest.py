"""A store of each test's own."""

from collections.abc import AsyncIterator

import pytest

from kronos_stream.context.store import ContextStore
from kronos_stream.settings import RedisSettings

from .logs import KEEP


@pytest.fixture
async def store(redis_url: str, topic_prefix: str) -> AsyncIterator[ContextStore]:
    made = ContextStore(
        RedisSettings(prefix=topic_prefix), url=redis_url, interval="5m", scope="s", keep=KEEP
    )
    await made.start()
    yield made
    await made.close()
