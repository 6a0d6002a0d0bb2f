"""What only a real Kafka has: topics as they must be, commits, and members of a group."""

import asyncio
import time

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin import NewTopic as ForeignTopic

from kronos_stream.embedded import EmbeddedBroker
from kronos_stream.errors import BrokerError
from kronos_stream.kafka import Broker, Commit
from tests.kafka_clients import (
    SESSION_MS,
    assignment_of,
    connected,
    member_of,
    poll_for_ever,
    publishing,
    settings_of,
    settled,
)

pytestmark = pytest.mark.integration


async def test_topics_are_created_as_they_must_be(kafka_bootstrap: str, topic_prefix: str) -> None:
    async with connected(kafka_bootstrap, topic_prefix) as broker:
        assert await broker.check_topics() == []
        assert await broker.partitions(broker.topics.bars) == 4
        assert await broker.partitions(broker.topics.late) == 1
        await broker.ensure_topics()


async def test_findings_name_what_differs(kafka_bootstrap: str, topic_prefix: str) -> None:
    """Topics that somebody else made: the bars follow the ticks' partitions, the rest is told."""
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    made = admin.create_topics([ForeignTopic(f"{topic_prefix}.ticks", 3, 1)])
    made[f"{topic_prefix}.ticks"].result(10)
    broker = Broker(
        settings_of(topic_prefix), bootstrap=kafka_bootstrap, embedded=False, interval="5m"
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


async def test_too_few_partitions_are_refused_at_the_start(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    """A bar has the partition number of its ticks: there it would have none."""
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    topics = [(f"{topic_prefix}.ticks", 3), (f"{topic_prefix}.bars.5m", 2)]
    for future in admin.create_topics([ForeignTopic(name, n, 1) for name, n in topics]).values():
        future.result(10)
    broker = Broker(
        settings_of(topic_prefix), bootstrap=kafka_bootstrap, embedded=False, interval="5m"
    )
    await broker.start()
    try:
        with pytest.raises(BrokerError, match=r"bars\.5m: expected 3 partitions .*ticks, got 2"):
            await broker.ensure_topics()
    finally:
        await broker.close()


async def test_commits_come_back_with_their_metadata(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async with connected(kafka_bootstrap, topic_prefix) as broker:
        topic, group = broker.topics.ticks, "g-" + broker.topics.ticks
        assert await broker.committed(group, topic, [0, 1]) == {0: None, 1: None}
        async with member_of(broker) as member:
            await assignment_of(member)
            assert await member.commit({1: Commit(42, '{"w":1735689600000}')})
        found = await broker.committed(group, topic, [0, 1])
        assert found == {0: None, 1: Commit(42, '{"w":1735689600000}')}


async def test_two_members_share_and_one_takes_over_from_one_that_leaves(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async with connected(kafka_bootstrap, topic_prefix) as broker, member_of(broker) as first:
        assert await assignment_of(first) == {0, 1, 2, 3}
        async with member_of(broker) as second:
            shares = await settled([first, second])
            assert [len(share) for share in shares] == [2, 2]
        assert await settled([first]) == [frozenset({0, 1, 2, 3})]


async def test_a_member_that_was_voted_out_cannot_commit(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    """What was read before a rebalance is void after it, even for partitions that come back."""
    async with connected(kafka_bootstrap, topic_prefix) as broker, member_of(broker) as first:
        await assignment_of(first)
        assert first.owned
        async with member_of(broker) as second:
            while first.owned:
                await second.poll(max_wait_ms=20)
            assert not await first.commit({p: Commit(9) for p in range(4)})
            await settled([first, second])
        found = await broker.committed("g-" + broker.topics.ticks, broker.topics.ticks, range(4))
        assert set(found.values()) == {None}


@pytest.mark.parametrize("pulse_wakes_first", [False, True])
async def test_a_stalled_member_gives_up_before_the_broker_says_so(
    pulse_wakes_first: bool,
    kafka_bootstrap: str,
    topic_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with connected(kafka_bootstrap, topic_prefix) as broker, member_of(broker) as member:
        await assignment_of(member)
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + SESSION_MS / 1000 + 1)
        beating = asyncio.create_task(member._beat())
        if pulse_wakes_first:
            await asyncio.sleep(0)
        assert not member.owned
        beating.cancel()
        monkeypatch.undo()
        assert not await member.commit({0: Commit(1)})
        await assignment_of(member)


async def test_a_static_member_that_was_replaced_goes_for_good(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    """Two processes with one id would evict each other for ever."""
    async with connected(kafka_bootstrap, topic_prefix) as broker:
        old = broker.subscription(broker.topics.ticks, group="s", instance_id="a")
        await old.start()
        await assignment_of(old)
        new = broker.subscription(broker.topics.ticks, group="s", instance_id="a")
        await new.start()
        assert await assignment_of(new) == {0, 1, 2, 3}

        with pytest.raises(BrokerError, match="static member a"):
            await poll_for_ever(old)
        await old.stop()
        assert await new.commit({0: Commit(1)})
        await new.stop()


async def test_a_failed_batch_does_not_poison_what_follows(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    """A batch that the broker refuses leaves aiokafka's idempotent producer out of sequence."""
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    name = f"{topic_prefix}.strict"
    admin.create_topics([ForeignTopic(name, 1, 1)])[name].result(10)
    ahead = int(time.time() * 1000) + 10 * 86_400_000
    async with connected(kafka_bootstrap, topic_prefix) as broker, publishing(broker) as publisher:
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


async def test_a_position_that_retention_removed_is_an_error_not_a_jump(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async with (
        connected(kafka_bootstrap, topic_prefix) as broker,
        publishing(broker) as publisher,
        member_of(broker) as member,
    ):
        for value in (b"a", b"b"):
            await (await publisher.send(broker.topics.ticks, value, partition=0))
        admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
        gone = TopicPartition(broker.topics.ticks, 0, 1)
        await asyncio.to_thread(admin.delete_records([gone])[gone].result, 10)
        await assignment_of(member)
        member.seek(0, 0)
        with pytest.raises(BrokerError, match=r"retention .* it begins at 1, expected 0"):
            await poll_for_ever(member)


async def test_a_position_behind_the_end_is_one_of_another_topic(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async with connected(kafka_bootstrap, topic_prefix) as broker, member_of(broker) as member:
        await assignment_of(member)
        member.seek(0, 1_000)
        with pytest.raises(BrokerError, match=r"made anew .* it ends before 1000"):
            await poll_for_ever(member)


async def test_stopping_is_quick_when_the_broker_is_gone(topic_prefix: str) -> None:
    """Ctrl-C must end everything within seconds, also then."""
    there = EmbeddedBroker()
    broker = Broker(
        settings_of(topic_prefix), bootstrap=there.bootstrap, embedded=True, interval="5m"
    )
    await broker.start()
    publisher, member = broker.publisher(), broker.subscription(broker.topics.ticks, group="g")
    await publisher.start()
    await member.start()
    for p in await assignment_of(member):
        member.seek(p, 0)
    await (await publisher.send(broker.topics.ticks, b"x", partition=0))
    there.close()
    await publisher.send(broker.topics.ticks, b"y", partition=0)
    await member.poll(max_wait_ms=50)
    async with asyncio.timeout(4):
        await asyncio.gather(member.stop(), publisher.close(), broker.close())


async def test_a_position_is_that_of_a_partition_that_is_read(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    """Of any other one the client would raise, or wait until there is one."""
    async with connected(kafka_bootstrap, topic_prefix) as broker, member_of(broker) as member:
        assert await member.position(0) is None
        await assignment_of(member)
        assert await member.position(0) is None
        member.seek(0, 0)
        assert await member.position(0) == 0
        assert await member.position(99) is None
