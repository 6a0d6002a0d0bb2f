"""The broker's clients as tests use them."""

import contextlib
from collections.abc import AsyncIterator

from kronos_stream.kafka import Broker, Publisher, Record, Subscription
from kronos_stream.settings import KafkaSettings

SESSION_MS = 6_000


def settings_of(prefix: str, **more: object) -> KafkaSettings:
    return KafkaSettings(
        topic_prefix=prefix,
        partitions=4,
        session_timeout_ms=SESSION_MS,
        heartbeat_ms=300,
        rebalance_timeout_ms=5_000,
        **more,  # type: ignore[arg-type]
    )


@contextlib.asynccontextmanager
async def connected(
    bootstrap: str, prefix: str, *, embedded: bool = False, **more: object
) -> AsyncIterator[Broker]:
    broker = Broker(
        settings_of(prefix, **more), bootstrap=bootstrap, embedded=embedded, interval="5m"
    )
    await broker.start()
    try:
        await broker.ensure_topics()
        yield broker
    finally:
        await broker.close()


@contextlib.asynccontextmanager
async def publishing(broker: Broker) -> AsyncIterator[Publisher]:
    publisher = broker.publisher()
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.close()


@contextlib.asynccontextmanager
async def member_of(broker: Broker, **more: str) -> AsyncIterator[Subscription]:
    member = broker.subscription(broker.topics.ticks, group="g-" + broker.topics.ticks, **more)
    await member.start()
    try:
        yield member
    finally:
        await member.stop()


async def assignment_of(member: Subscription) -> frozenset[int]:
    """The next assignment, polling as a service does."""
    while True:
        taken = member.take_assignment()
        if taken is not None:
            return taken
        assert await member.poll(max_wait_ms=50) == {}


async def settled(members: list[Subscription], partitions: int = 4) -> list[frozenset[int]]:
    """Poll all members until their assignments make up the whole topic."""
    shares: list[frozenset[int]] = [frozenset()] * len(members)
    while True:
        for i, member in enumerate(members):
            await member.poll(max_wait_ms=20)
            taken = member.take_assignment()
            if taken is not None:
                shares[i] = taken
        if sorted(p for share in shares for p in share) == list(range(partitions)) and all(shares):
            return shares


async def read(member: Subscription, count: int) -> list[Record]:
    records: list[Record] = []
    while len(records) < count:
        for batch in (await member.poll(max_wait_ms=100)).values():
            records += batch
    return records


async def poll_for_ever(member: Subscription) -> None:
    while True:
        await member.poll(max_wait_ms=20)
