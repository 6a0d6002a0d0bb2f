"""The bars stage on a real Kafka: members that share, die, stall and come back.

Whatever happens, the bars and late topics hold, after keep-first, what one member would have
written that read the same ticks partitions undisturbed.
"""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterable

import pytest

from kronos_stream.bars.service import BarsService
from kronos_stream.kafka import Broker, Publisher
from kronos_stream.wire.codecs import decode, encode
from kronos_stream.wire.messages import Bar, Marker, Tick
from kronos_stream.wire.partitioning import partition_of
from kronos_stream.wire.topics import Record, group_name
from tests.fakes import FakeBroker, FakeCluster
from tests.integration.bars_member import PARTITIONS, member_settings
from tests.tick_sessions import GRACE, STEP, T0, session

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


@pytest.fixture
async def broker(kafka_bootstrap: str, topic_prefix: str) -> AsyncIterator[Broker]:
    settings = member_settings(topic_prefix)
    broker = Broker(settings.kafka, bootstrap=kafka_bootstrap, embedded=False, interval="5m")
    await broker.start()
    await broker.ensure_topics()
    yield broker
    await broker.close()


@pytest.fixture
async def publisher(broker: Broker) -> AsyncIterator[Publisher]:
    publisher = broker.publisher()
    await publisher.start()
    yield publisher
    await publisher.close()


async def _write(broker: Broker, publisher: Publisher, messages: Iterable[Tick | Marker]) -> None:
    for message in messages:
        value, headers = encode(message)
        partitions = range(PARTITIONS)
        key = None
        if isinstance(message, Tick):
            key = message.symbol.encode()
            p = partition_of(message.symbol, PARTITIONS)
            partitions = range(p, p + 1)
        for p in partitions:
            await publisher.send(broker.topics.ticks, value, partition=p, key=key, headers=headers)
    await publisher.flush()


async def _read(broker: Broker, topic: str) -> list[Record]:
    partitions = range(await broker.partitions(topic))
    ends = await broker.end_offsets(topic, partitions)
    return [
        record
        for p in partitions
        async for records in broker.read(topic, p, 0, ends[p])
        for record in records
    ]


def _bars(records: Iterable[Record]) -> dict:
    kept: dict = {}
    for record in records:
        bar = decode(record.value, record.headers, Bar)
        kept.setdefault((bar.symbol, bar.open_time), (record.partition, record.value))
    return kept


def _late(records: Iterable[Record]) -> dict:
    kept: dict = {}
    for record in records:
        headers = dict(record.headers)
        source = headers["source_partition"], headers["source_offset"]
        kept.setdefault(source, record.value)
    return kept


async def _content(broker: Broker) -> tuple[dict, dict]:
    return (
        _bars(await _read(broker, broker.topics.bars)),
        _late(await _read(broker, broker.topics.late)),
    )


async def _undisturbed(broker: Broker) -> tuple[dict, dict]:
    """What one member makes of the ticks topic as it now stands, in memory."""
    cluster = FakeCluster(partitions=PARTITIONS)
    for r in await _read(broker, broker.topics.ticks):
        cluster.append(
            r.topic,
            r.value,
            partition=r.partition,
            key=r.key,
            timestamp=r.timestamp,
            headers=r.headers,
        )
    fake = FakeBroker(cluster, settings=broker.settings, embedded=True)
    service = BarsService(member_settings(broker.settings.topic_prefix), fake)  # type: ignore[arg-type]
    task = asyncio.create_task(service.run())
    await service.ready.wait()
    await service._subscription.idle()  # type: ignore[attr-defined]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    bars, late = cluster.records(fake.topics.bars), cluster.records(fake.topics.late)
    return _bars(bars), _late(late)


async def _complete(broker: Broker) -> None:
    """Until the topics hold exactly what they must."""
    expected = await _undisturbed(broker)
    assert expected[0]
    assert expected[1]
    while True:
        content = await _content(broker)
        assert content[0].items() <= expected[0].items()
        assert content[1].items() <= expected[1].items()
        if content == expected:
            return
        await asyncio.sleep(0.05)


class Member:
    """A process of the bars stage."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, broker: Broker, *more: str) -> "Member":
        prefix = broker.settings.topic_prefix
        return cls(
            await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "tests.integration.bars_member"],
                *[broker.bootstrap, prefix, *more],
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        )

    async def says(self, word: str) -> None:
        assert self.process.stdout is not None
        while True:
            line = await self.process.stdout.readline()
            assert line, f"the member ended before it said {word}"
            if line.decode().startswith(word):
                return

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def _members(broker: Broker, count: int) -> AsyncIterator[list[Member]]:
    members = [await Member.start(broker) for _ in range(count)]
    try:
        for member in members:
            await member.says("ready")
        yield members
    finally:
        for member in members:
            await member.kill()


@contextlib.asynccontextmanager
async def _service(broker: Broker) -> AsyncIterator[BarsService]:
    """A member in this process, which leaves in good order."""
    service = BarsService(member_settings(broker.settings.topic_prefix), broker)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(service.run())
        yield service
        task.cancel()


async def test_a_killed_and_a_stalled_member_are_taken_over(
    broker: Broker, publisher: Publisher
) -> None:
    """The stalled one wakes up with another's partitions in its hands, and does no harm."""
    async with _members(broker, 3) as (killed, stalled, _):
        await _write(broker, publisher, session(range(4)))
        await _complete(broker)
        stalled.process.send_signal(signal.SIGSTOP)
        await killed.kill()
        await _write(broker, publisher, session(range(4, 8)))
        await _complete(broker)
        stalled.process.send_signal(signal.SIGCONT)
        await _write(broker, publisher, session(range(8, 12)))
        await _complete(broker)


async def test_a_member_that_dies_at_every_few_bars_loses_nothing(
    broker: Broker, publisher: Publisher
) -> None:
    """Static membership: the next process takes the place of the last without a wait."""
    await _write(broker, publisher, session(range(8)))
    for die_at in (1, 2, 5, 3):
        member = await Member.start(broker, "--instance-id", "a", "--die-at", str(die_at))
        assert await member.process.wait() == 9
    last = await Member.start(broker, "--instance-id", "a")
    await _complete(broker)
    await last.kill()


async def test_members_that_come_and_go_share_the_partitions(
    broker: Broker, publisher: Publisher
) -> None:
    async with _service(broker) as first:
        await first.ready.wait()
        await _write(broker, publisher, session(range(3)))
        async with _service(broker) as second:
            await second.ready.wait()
            await _write(broker, publisher, session(range(3, 6)))
            await _complete(broker)
            assert len(first._partitions) == len(second._partitions) == PARTITIONS // 2
        await _write(broker, publisher, session(range(6, 9)))
        await _complete(broker)


async def test_a_second_run_continues_and_publishes_nothing_again(
    broker: Broker, publisher: Publisher
) -> None:
    for intervals in (range(3), range(3, 6)):
        await _write(broker, publisher, session(intervals))
        async with _service(broker):
            await _complete(broker)
    records = await _read(broker, broker.topics.bars)
    assert len(records) == len(_bars(records))
    group = group_name(broker.settings, "bars", "5m")
    commits = await broker.committed(group, broker.topics.ticks, range(PARTITIONS))
    remembered = [json.loads(commit.metadata) for commit in commits.values() if commit]
    assert {entry["w"] for entry in remembered} == {T0 + 6 * STEP + GRACE}


async def test_a_megabyte_of_junk_passes_by(broker: Broker, publisher: Publisher) -> None:
    junk = bytes(range(256)) * 3_900
    await publisher.send(broker.topics.ticks, junk, partition=0)
    await _write(broker, publisher, session(range(3)))
    async with _service(broker):
        await _complete(broker)
    (rejected,) = await _read(broker, broker.topics.rejected)
    headers = dict(rejected.headers)
    assert headers["original_size"] == b"%d" % len(junk)
    assert rejected.value == junk[:65_536]
