"""Writing: an idempotent producer that is replaced once it has failed."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from ..errors import BrokerError
from ..telemetry import PRODUCERS_REPLACED
from .clients import closed

log = structlog.get_logger()


class Publisher:
    """Idempotent, acks=all. Records keep their order within a partition."""

    def __init__(self, make: Callable[[], AIOKafkaProducer]) -> None:
        self._make = make
        self._producer: AIOKafkaProducer | None = None
        self._broken = False
        self._failed: BaseException | None = None
        self._renewing = asyncio.Lock()

    async def start(self) -> None:
        """Connect; BrokerError where nothing answers."""
        self._producer = self._make()
        try:
            await self._producer.start()
        except KafkaError as error:
            raise BrokerError(f"starting a producer: {error!r}") from error

    async def close(self) -> None:
        """Send what is buffered, then close."""
        if self._producer is not None:
            await closed(self._producer.stop, self._producer.client)
        self._producer = None

    async def send(
        self,
        topic: str,
        value: bytes,
        *,
        partition: int,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> "asyncio.Future[int]":
        """Hand a record over. Returns when the buffer has taken it; the future gives its offset
        when the broker has acknowledged it, or BrokerError."""
        if self._broken:
            await self._renew()
        if self._producer is None:
            raise BrokerError("the publisher was not started")
        try:
            sent = await self._producer.send(
                topic,
                value,
                partition=partition,
                key=key,
                timestamp_ms=timestamp,
                headers=list(headers),
            )
        except (KafkaError, AssertionError) as error:
            raise BrokerError(
                f"sending {len(value)} bytes to {topic}/{partition}: {error!r}"
            ) from error
        acknowledged: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def on_done(done: "asyncio.Future[Any]") -> None:
            error = None if done.cancelled() else done.exception()
            if error is not None:
                self._broken, self._failed = True, error
            if acknowledged.done():
                return
            if error is not None:
                acknowledged.set_exception(
                    BrokerError(f"sending to {topic}/{partition}: {error!r}")
                )
                acknowledged.exception()
            elif done.cancelled():
                acknowledged.cancel()
            else:
                acknowledged.set_result(done.result().offset)

        sent.add_done_callback(on_done)
        return acknowledged

    async def flush(self) -> None:
        """Wait until all that was sent is acknowledged; raises BrokerError where any record since
        the last flush was not, even if its future told so already."""
        if self._producer is not None:
            await self._producer.flush()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise BrokerError(f"a record was not acknowledged: {failed!r}") from failed

    async def _renew(self) -> None:
        """A failed batch leaves the idempotent producer out of sequence for its partition: every
        later send there would fail. So a failed producer is replaced."""
        async with self._renewing:
            if not self._broken:
                return
            PRODUCERS_REPLACED.inc()
            log.warning("producer_replaced", error=repr(self._failed))
            await self.close()
            await self.start()
            self._broken = False
