"""The broker's client, on the embedded broker and on a real one."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin import NewTopic as ForeignTopic

from kronos_stream.embedded import EmbeddedBroker
from kronos_stream.errors import BrokerError
from kronos_stream.kafka import Broker, Commit, Publisher, Record, Subscription
from kronos_stream.settings import KafkaSettings
from kronos_stream.wire.topics import Topics, group_name

SESSION_MS = 6_000


@pytest.fixture(scope="module")
def embedded_bootstrap() -> Iterator[str]:
    broker = EmbeddedBroker()
    yield broker.bootstrap
    broker.close()


def _settings(prefix: str, **more: object) -> KafkaSettings:
    return KafkaSettings(
        topic_prefix=prefix,
        partitions=4,
        session_timeout_ms=SESSION_MS,
        heartbeat_ms=300,
        rebalance_timeout_ms=5_000,
        **more,  # type: ignore[arg-type]
    )


@contextlib.asynccontextmanager
async def _broker(
    bootstrap: str, prefix: str, *, embedded: bool = False, **more: object
) -> AsyncIterator[Broker]:
    broker = Broker(
        _settings(prefix, **more), bootstrap=bootstrap, embedded=embedded, interval="5m"
    )
    await broker.start()
    try:
        await broker.ensure_topics()
        yield broker
    finally:
        await broker.close()


@contextlib.asynccontextmanager
async def _publisher(broker: Broker) -> AsyncIterator[Publisher]:
    publisher = broker.publisher()
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.close()


@contextlib.asynccontextmanager
async def _member(broker: Broker, **more: str) -> AsyncIterator[Subscription]:
    member = broker.subscription(broker.topics.ticks, group="g-" + broker.topics.ticks, **more)
    await member.start()
    try:
        yield member
    finally:
        await member.stop()


async def _assignment(member: Subscription) -> frozenset[int]:
    """The next assignment, polling as a service does."""
    while True:
        taken = member.take_assignment()
        if taken is not None:
            return taken
        assert await member.poll(max_wait_ms=50) == {}


async def _settled(members: list[Subscription], partitions: int = 4) -> list[frozenset[int]]:
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


async def _read(member: Subscription, count: int) -> list[Record]:
    records: list[Record] = []
    while len(records) < count:
        for batch in (await member.poll(max_wait_ms=100)).values():
            records += batch
    return records


async def _poll_for_ever(member: Subscription) -> None:
    while True:
        await member.poll(max_wait_ms=20)


# Both kinds of broker -------------------------------------------------------------------------


@pytest.fixture(
    params=["embedded", pytest.param("real", marks=pytest.mark.integration)], scope="module"
)
def where(request: pytest.FixtureRequest) -> tuple[str, bool]:
    if request.param == "embedded":
        return request.getfixturevalue("embedded_bootstrap"), True
    return request.getfixturevalue("kafka_bootstrap"), False


async def test_a_record_comes_back_as_it_was_sent(
    where: tuple[str, bool], topic_prefix: str
) -> None:
    async with (
        _broker(where[0], topic_prefix, embedded=where[1]) as broker,
        _publisher(broker) as publisher,
        _member(broker) as member,
    ):
        for p in await _assignment(member):
            member.seek(p, 0)
        acknowledged = await publisher.send(
            broker.topics.ticks, b"v", partition=2, key=b"S", headers=(("schema", b"tick/1"),)
        )
        assert await acknowledged == 0
        (record,) = await _read(member, 1)
        assert (record.topic, record.partition, record.offset) == (broker.topics.ticks, 2, 0)
        assert (record.key, record.value) == (b"S", b"v")
        assert record.headers == (("schema", b"tick/1"),)
        assert await member.position(2) == 1
        assert abs(record.timestamp - time.time() * 1000) < 60_000


async def test_a_bar_keeps_its_time_however_far_ahead(
    where: tuple[str, bool], topic_prefix: str
) -> None:
    """Kafka 4 refuses records more than an hour ahead unless the topic says otherwise."""
    ahead = int(time.time() * 1000) + 10 * 86_400_000
    async with _broker(where[0], topic_prefix, embedded=where[1]) as broker:
        async with _publisher(broker) as publisher:
            await (await publisher.send(broker.topics.bars, b"b", partition=1, timestamp=ahead))
        batches = [b async for b in broker.read(broker.topics.bars, 1, 0, 1)]
        assert [r.timestamp for batch in batches for r in batch] == [ahead]


async def test_nothing_is_delivered_before_seek_and_only_from_there(
    where: tuple[str, bool], topic_prefix: str
) -> None:
    async with (
        _broker(where[0], topic_prefix, embedded=where[1]) as broker,
        _publisher(broker) as publisher,
        _member(broker) as member,
    ):
        for i in range(10):
            await publisher.send(broker.topics.ticks, b"%d" % i, partition=i % 2)
        await publisher.flush()
        assert await _assignment(member) == {0, 1, 2, 3}
        assert member.take_assignment() is None
        assert await member.poll(max_wait_ms=100) == {}
        member.seek(1, 3)
        assert [r.value for r in await _read(member, 2)] == [b"7", b"9"]
        assert await member.poll(max_wait_ms=50) == {}
        member.seek(0, 0)
        assert [r.offset for r in await _read(member, 5)] == [0, 1, 2, 3, 4]
        member.seek(0, 4)
        assert [r.offset for r in await _read(member, 1)] == [4]


async def test_paused_partitions_wait(where: tuple[str, bool], topic_prefix: str) -> None:
    async with (
        _broker(where[0], topic_prefix, embedded=where[1]) as broker,
        _publisher(broker) as publisher,
        _member(broker) as member,
    ):
        for p in await _assignment(member):
            member.seek(p, 0)
        member.pause({0})
        for p in (0, 1):
            await publisher.send(broker.topics.ticks, b"x", partition=p)
        await publisher.flush()
        assert [r.partition for r in await _read(member, 1)] == [1]
        assert await member.poll(max_wait_ms=100) == {}
        member.resume({0})
        assert [r.partition for r in await _read(member, 1)] == [0]


async def test_offsets_and_a_bounded_read(where: tuple[str, bool], topic_prefix: str) -> None:
    async with _broker(where[0], topic_prefix, embedded=where[1]) as broker:
        topic = broker.topics.bars
        async with _publisher(broker) as publisher:
            for i in range(2_000):
                await publisher.send(topic, b"%d" % i, partition=3, timestamp=1_000 * i)
            await publisher.flush()
        assert await broker.partitions(topic) == 4
        assert await broker.begin_offsets(topic, [3]) == {3: 0}
        assert await broker.end_offsets(topic, [2, 3]) == {2: 0, 3: 2_000}
        read = [r async for batch in broker.read(topic, 3, 500, 1_900) for r in batch]
        assert [r.offset for r in read] == list(range(500, 1_900))
        assert [b async for b in broker.read(topic, 3, 7, 7)] == []
        at = await broker.offsets_for_times(topic, {3: 500_500, 2: 0})
        assert at == ({3: 0, 2: 0} if broker.embedded else {3: 501, 2: 0})
        if not broker.embedded:
            assert await broker.offsets_for_times(topic, {3: 10**12}) == {3: 2_000}


async def test_a_record_over_the_limit_is_refused_and_the_next_goes_through(
    where: tuple[str, bool], topic_prefix: str
) -> None:
    async with (
        _broker(where[0], topic_prefix, embedded=where[1]) as broker,
        _publisher(broker) as publisher,
    ):
        with pytest.raises(BrokerError, match="MessageSizeTooLarge"):
            await publisher.send(broker.topics.ticks, bytes(1_100_000), partition=0)
        assert await (await publisher.send(broker.topics.ticks, b"x", partition=0)) == 0


async def test_a_partition_that_is_not_there_is_refused(
    where: tuple[str, bool], topic_prefix: str
) -> None:
    async with (
        _broker(where[0], topic_prefix, embedded=where[1]) as broker,
        _publisher(broker) as publisher,
    ):
        with pytest.raises(BrokerError, match="partition"):
            await publisher.send(broker.topics.ticks, b"x", partition=99)


# Embedded only --------------------------------------------------------------------------------


async def test_embedded_commits_nothing(embedded_bootstrap: str, topic_prefix: str) -> None:
    async with _broker(embedded_bootstrap, topic_prefix, embedded=True) as broker:
        async with _member(broker) as member:
            await _assignment(member)
            assert await member.commit({0: Commit(5, "m")})
        assert await broker.committed("g", broker.topics.ticks, range(4)) == {}
        assert await broker.check_topics() == []


async def test_no_broker_at_the_address() -> None:
    broker = Broker(_settings("x"), bootstrap="127.0.0.1:1", embedded=False, interval="5m")
    with pytest.raises(BrokerError, match=r"kafka\.bootstrap.*127\.0\.0\.1:1"):
        await broker.start()


def test_names() -> None:
    topics = Topics("kronos", "5m")
    assert topics.all == (
        "kronos.ticks",
        "kronos.ticks.rejected",
        "kronos.ticks.late.5m",
        "kronos.bars.5m",
        "kronos.forecasts.5m",
        "kronos.forecasts.5m.skipped",
    )
    assert group_name(KafkaSettings(), "bars", "5m") == "kronos.bars.5m"
    named = KafkaSettings(group="mine")
    assert group_name(named, "forecasts", "5m", "0a1b2c3d") == "mine.forecasts.5m.0a1b2c3d"


# Real Kafka only ------------------------------------------------------------------------------


@pytest.mark.integration
async def test_topics_are_created_as_they_must_be(kafka_bootstrap: str, topic_prefix: str) -> None:
    async with _broker(kafka_bootstrap, topic_prefix) as broker:
        assert await broker.check_topics() == []
        assert await broker.partitions(broker.topics.bars) == 4
        assert await broker.partitions(broker.topics.late) == 1
        await broker.ensure_topics()


@pytest.mark.integration
async def test_findings_name_what_differs(kafka_bootstrap: str, topic_prefix: str) -> None:
    """Topics that somebody else made: the bars follow the ticks' partitions, the rest is told."""
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    made = admin.create_topics([ForeignTopic(f"{topic_prefix}.ticks", 3, 1)])
    made[f"{topic_prefix}.ticks"].result(10)
    broker = Broker(
        _settings(topic_prefix), bootstrap=kafka_bootstrap, embedded=False, interval="5m"
    )
    await broker.start()
    try:
        assert f"{topic_prefix}.bars.5m: missing" in await broker.check_topics()
        with pytest.raises(BrokerError, match=r"bars\.5m does not exist"):
            await broker.partitions(broker.topics.bars)
        await broker.ensure_topics()
        assert await broker.partitions(broker.topics.forecasts) == 3
        assert await broker.check_topics() == [
            f"{topic_prefix}.ticks: message.timestamp.type=CreateTime, expected LogAppendTime",
            f"{topic_prefix}.ticks: retention.bytes=-1, expected 4294967296",
        ]
    finally:
        await broker.close()


@pytest.mark.integration
async def test_commits_come_back_with_their_metadata(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async with _broker(kafka_bootstrap, topic_prefix) as broker:
        topic, group = broker.topics.ticks, "g-" + broker.topics.ticks
        assert await broker.committed(group, topic, [0, 1]) == {0: None, 1: None}
        async with _member(broker) as member:
            await _assignment(member)
            assert await member.commit({1: Commit(42, '{"w":1735689600000}')})
        found = await broker.committed(group, topic, [0, 1])
        assert found == {0: None, 1: Commit(42, '{"w":1735689600000}')}


@pytest.mark.integration
async def test_two_members_share_and_one_takes_over_from_one_that_leaves(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async with _broker(kafka_bootstrap, topic_prefix) as broker, _member(broker) as first:
        assert await _assignment(first) == {0, 1, 2, 3}
        async with _member(broker) as second:
            shares = await _settled([first, second])
            assert [len(share) for share in shares] == [2, 2]
        assert await _settled([first]) == [frozenset({0, 1, 2, 3})]


@pytest.mark.integration
async def test_a_member_that_was_voted_out_cannot_commit(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    """What was read before a rebalance is void after it, even for partitions that come back."""
    async with _broker(kafka_bootstrap, topic_prefix) as broker, _member(broker) as first:
        await _assignment(first)
        assert first.owned
        async with _member(broker) as second:
            while first.owned:
                await second.poll(max_wait_ms=20)
            assert not await first.commit({p: Commit(9) for p in range(4)})
            await _settled([first, second])
        found = await broker.committed("g-" + broker.topics.ticks, broker.topics.ticks, range(4))
        assert set(found.values()) == {None}


@pytest.mark.integration
async def test_a_stalled_member_gives_up_before_the_broker_says_so(
    kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _broker(kafka_bootstrap, topic_prefix) as broker, _member(broker) as member:
        await _assignment(member)
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + SESSION_MS / 1000 + 1)
        assert not member.owned
        monkeypatch.undo()
        assert not await member.commit({0: Commit(1)})
        await _assignment(member)


@pytest.mark.integration
async def test_a_static_member_that_was_replaced_goes_for_good(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    """Two processes with one id would evict each other for ever."""
    async with _broker(kafka_bootstrap, topic_prefix) as broker:
        old = broker.subscription(broker.topics.ticks, group="s", instance_id="a")
        await old.start()
        await _assignment(old)
        new = broker.subscription(broker.topics.ticks, group="s", instance_id="a")
        await new.start()
        assert await _assignment(new) == {0, 1, 2, 3}

        with pytest.raises(BrokerError, match="static member a"):
            await _poll_for_ever(old)
        await old.stop()
        assert await new.commit({0: Commit(1)})
        await new.stop()


@pytest.mark.integration
async def test_a_failed_batch_does_not_poison_what_follows(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    """A batch that the broker refuses leaves aiokafka's idempotent producer out of sequence."""
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    name = f"{topic_prefix}.strict"
    admin.create_topics([ForeignTopic(name, 1, 1)])[name].result(10)
    ahead = int(time.time() * 1000) + 10 * 86_400_000
    async with _broker(kafka_bootstrap, topic_prefix) as broker, _publisher(broker) as publisher:
        assert await (await publisher.send(name, b"a", partition=0)) == 0
        with pytest.raises(BrokerError, match="InvalidTimestamp"):
            await (await publisher.send(name, b"b", partition=0, timestamp=ahead))
        assert await (await publisher.send(name, b"c", partition=0)) == 1
        with pytest.raises(BrokerError, match="not acknowledged"):
            await publisher.flush()
        await publisher.flush()
        await publisher.send(name, b"d", partition=0, timestamp=ahead)
        with pytest.raises(BrokerError, match="not acknowledged"):
            await publisher.flush()
        assert await (await publisher.send(name, b"e", partition=0)) == 2


@pytest.mark.integration
async def test_a_position_that_retention_removed_is_an_error_not_a_jump(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async with _broker(kafka_bootstrap, topic_prefix) as broker, _member(broker) as member:
        await _assignment(member)
        member.seek(0, 1_000)
        with pytest.raises(BrokerError, match="retention"):
            await _poll_for_ever(member)


async def test_stopping_is_quick_when_the_broker_is_gone(topic_prefix: str) -> None:
    """Ctrl-C must end everything within seconds, also then."""
    there = EmbeddedBroker()
    broker = Broker(
        _settings(topic_prefix), bootstrap=there.bootstrap, embedded=True, interval="5m"
    )
    await broker.start()
    publisher, member = broker.publisher(), broker.subscription(broker.topics.ticks, group="g")
    await publisher.start()
    await member.start()
    for p in await _assignment(member):
        member.seek(p, 0)
    await (await publisher.send(broker.topics.ticks, b"x", partition=0))
    there.close()
    await publisher.send(broker.topics.ticks, b"y", partition=0)
    await member.poll(max_wait_ms=50)
    async with asyncio.timeout(4):
        await asyncio.gather(member.stop(), publisher.close(), broker.close())
