"""What every client of aiokafka here does alike: try again, stop in bounded time, pass records."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, Final, TypeVar

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError

from ..errors import BrokerError
from ..wire.topics import Record

log = structlog.get_logger()
T = TypeVar("T")

CLOSE_TIMEOUT_S: Final = 1.5
RETRY_S: Final = 0.1
READY_TIMEOUT_S: Final = 30.0


def records_of(found: Iterable[Any]) -> list[Record]:
    """aiokafka's records have the fields of ours and pass as they are: one more object for each
    would cost a tenth of reading it. Only a missing value becomes an empty one."""
    return [r if r.value is not None else _empty(r) for r in found]


def _empty(r: Any) -> Record:
    return Record(r.topic, r.partition, r.offset, r.timestamp, r.key, b"", r.headers)


async def retried(call: Callable[[], Awaitable[T]], what: str) -> T:
    """Call until it succeeds. Only errors that the client names retriable (a coordinator still
    loading, a leader being elected) are tried again, for at most READY_TIMEOUT_S."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            return await call()
        except IncompatibleBrokerVersion as error:
            raise BrokerError(f"{what}: this broker cannot (embedded ones cannot)") from error
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise BrokerError(f"{what}: {error!r}") from error
        await asyncio.sleep(RETRY_S)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """aiokafka logs what it also raises: where an error tells it all, its log lines are noise."""
    logger = logging.getLogger("aiokafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


async def closed(stop: Callable[[], Coroutine[Any, Any, None]], client: Any) -> None:
    """Stop a client in bounded time: with the broker gone, a clean stop would wait for ever.

    In a task of its own, because aiokafka's stop() lets the CancelledError of its inner tasks
    escape, as if we had been cancelled: when a fetch was waiting to try again, or (hence the
    sleep) when an inner task has not had its first step yet.
    """
    await asyncio.sleep(0)
    stopping = asyncio.create_task(stop())
    await asyncio.wait({stopping}, timeout=CLOSE_TIMEOUT_S)
    if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
        return
    stopping.cancel()
    log.warning("kafka_client_stopped_hard")
    await client.close()


def tps_of(topic: str, partitions: Iterable[int]) -> list[TopicPartition]:
    return [TopicPartition(topic, p) for p in partitions]
