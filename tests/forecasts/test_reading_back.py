"""A stage that reads a context back says so: its position stands still meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes import FakeBroker, FakeCluster
from tests.samples import bar

from .test_service import (
    LOOKBACK,
    append,
    forecasts,
    from_the_beginning,
    running,
    service_of,
    until,
)

pytestmark = pytest.mark.integration


class _Slow(FakeBroker):
    """Whose topic takes until `go` to be read back."""

    def __init__(self, cluster: FakeCluster) -> None:
        super().__init__(cluster)
        self.reading, self.go = asyncio.Event(), asyncio.Event()

    async def read(self, *arguments: Any) -> AsyncIterator[Any]:
        self.reading.set()
        await self.go.wait()
        async for records in super().read(*arguments):
            yield records


async def test_it_is_said_what_the_position_waits_for(redis_url: str, topic_prefix: str) -> None:
    cluster = FakeCluster(partitions=1)
    broker, last = _Slow(cluster), None
    for index in range(LOOKBACK + 1):
        one = bar("AAA", index, prev_open_time=last)
        append(cluster, broker.topics.bars, one)
        last = one.open_time
    from_the_beginning(cluster)
    async with service_of(broker, redis_url, topic_prefix) as service, running(service) as task:
        await broker.reading.wait()
        assert service.waits_for == "the context of AAA, which is read back"
        broker.go.set()
        await until(lambda: len(forecasts(cluster)) == 1, task)
        await until(lambda: service.waits_for is None, task)
