"""`kronos-stream check` and `topics`: is everything around us as it must be?"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from redis.exceptions import RedisError

from .context.client import client_of
from .errors import BrokerError, KronosStreamError, RejectedError
from .kafka import Broker
from .secrets import masked
from .settings import Settings
from .wire.partitioning import Partitioner, crc32_partition, murmur2_partition
from .wire.topics import Topics

MAX_CLOCK_S: Final = 5.0
"""A clock that is further off than this is wrong."""
MAX_AHEAD_MS: Final = 60_000
RECENT: Final = 200
"""Ticks of each partition that are looked at."""
ANSWER_S: Final = 10.0

Say = Callable[[str], None]


async def findings(
    settings: Settings, say: Say, *, clock: Callable[[], float] = time.time
) -> list[str]:
    """What is wrong, one line each; `say` gets what is well. `clock` is wall time in seconds."""
    wrong = await _of_redis(settings, say, clock)
    assert settings.kafka.bootstrap is not None
    broker = _broker(settings)
    try:
        await broker.start()
        say(f"kafka: {broker.bootstrap} answers")
        for look in (_of_topics, _of_ticks):
            wrong += await _in_time(look(settings, broker, say, clock))
    except BrokerError as error:
        wrong.append(str(error))
    finally:
        await broker.close()
    return wrong


async def create_topics(settings: Settings, say: Say) -> None:
    """Creates the topics that are missing; says how each stands. BrokerError where refused."""
    broker = _broker(settings)
    try:
        await broker.start()
        await broker.ensure_topics()
        for topic in broker.topics.all:
            say(f"{topic}: partitions={await broker.partitions(topic)}")
        for line in await broker.check_topics():
            say(f"differs: {line}")
    finally:
        await broker.close()


def described_topics(settings: Settings) -> list[str]:
    """How each topic must be, one line each."""
    specs = Topics(settings.kafka.topic_prefix, settings.bars.interval).specs()
    return [
        f"{spec.name}: partitions={spec.partitions or settings.kafka.partitions}, "
        + ", ".join(f"{key}={value}" for key, value in spec.configs.items())
        for spec in specs
    ]


def _broker(settings: Settings) -> Broker:
    return Broker(
        settings.kafka,
        bootstrap=str(settings.kafka.bootstrap),
        embedded=False,
        interval=settings.bars.interval,
    )


async def _in_time(look: Awaitable[list[str]]) -> list[str]:
    try:
        async with asyncio.timeout(ANSWER_S):
            return await look
    except TimeoutError:
        return [f"kafka: no answer within {ANSWER_S:g} s"]


async def _of_redis(settings: Settings, say: Say, clock: Callable[[], float]) -> list[str]:
    if settings.redis.url is None:
        say("redis: none named, each forecast process starts an embedded store")
        return []
    shown = masked(settings.redis.url)
    try:
        client = client_of(settings.redis, settings.redis.url)
    except KronosStreamError as error:
        return [str(error)]
    try:
        seconds, micros = await cast(Awaitable[Any], client.time())
    except (RedisError, OSError) as error:
        return [f"redis: no answer at {shown}: {error}"]
    finally:
        await client.aclose()
    say(f"redis: {shown} answers")
    ahead = seconds + micros / 1e6 - clock()
    if abs(ahead) > MAX_CLOCK_S:
        return [f"redis: its clock is {ahead:+.1f} s from ours, expected within {MAX_CLOCK_S:g} s"]
    return []


async def _of_topics(
    settings: Settings, broker: Broker, say: Say, clock: Callable[[], float]
) -> list[str]:
    if not await broker.has_controller():
        say("topics: this broker is an embedded one, which makes them when they are asked for")
        return []
    wrong = await broker.check_topics()
    if not wrong:
        say(
            f"topics: the {len(broker.topics.all)} of {settings.kafka.topic_prefix} are as expected"
        )
    if any(line.endswith(": missing") for line in wrong):
        wrong.append("topics: `kronos-stream topics --create` makes what is missing")
    return wrong


async def _of_ticks(
    settings: Settings, broker: Broker, say: Say, clock: Callable[[], float]
) -> list[str]:
    """The newest ticks: the clock that dated them, and the partitions that they are in."""
    topic = broker.topics.ticks
    try:
        count = await broker.partitions(topic)
    except BrokerError:
        return []  # Told as missing among the topics.
    begins = await broker.begin_offsets(topic, range(count))
    ends = await broker.end_offsets(topic, range(count))
    decoder = settings.bars.tick_decoder()
    newest, seen, rejected = 0, Counter[tuple[str, int]](), Counter[str]()
    for partition, end in ends.items():
        start = max(begins[partition], end - RECENT)
        async for records in broker.read(topic, partition, start, end):
            for record in records:
                newest = max(newest, record.timestamp)
                try:
                    trade = decoder.decode(record.value, record.headers)
                except RejectedError as error:
                    rejected[error.reason] += 1
                    continue
                if not isinstance(trade, int):
                    seen[trade.symbol, partition] += 1
    wrong = [
        f"{topic}: {n} of the newest records are rejected as {why}" for why, n in rejected.items()
    ]
    ahead_ms = newest - 1000 * clock()
    if ahead_ms > MAX_AHEAD_MS:
        wrong.append(
            f"{topic}: its newest record is dated {ahead_ms / 1000:.0f} s ahead of our clock"
        )
    misplaced = partitioner_finding(topic, seen, count, settings.kafka.partitioner)
    if misplaced is not None:
        wrong.append(misplaced)
    elif seen:
        say(f"ticks: the newest {seen.total()} are in the partitions of their symbols")
    return wrong


def partitioner_finding(
    topic: str, seen: Counter[tuple[str, int]], partitions: int, partitioner: Partitioner
) -> str | None:
    """Whether ticks, counted by (symbol, partition), are where the rule wants them; and if not,
    which rule their producer seems to follow."""
    if partitioner == "any":
        return None
    rules = {"murmur2": murmur2_partition, "crc32": crc32_partition}
    fits = {
        name: sum(n for (s, p), n in seen.items() if rule(s.encode(), partitions) == p)
        for name, rule in rules.items()
    }
    total = seen.total()
    if fits[partitioner] == total:
        return None
    finding = (
        f"{topic}: {total - fits[partitioner]} of the newest {total} ticks are in a partition "
        f"other than kafka.partitioner={partitioner} says"
    )
    (other,) = set(rules) - {partitioner}
    if fits[other] == total:
        who = "librdkafka's default" if other == "crc32" else "Kafka's own rule"
        return (
            f"{finding}; all fit {other} ({who}): set --partitioner {other}, or let the producer "
            f"partition by {partitioner}"
        )
    return f"{finding}, nor do all fit {other}: is the producer's key the symbol?"
