"""The bars stage's shell over a broker in memory: what it publishes, commits and survives."""

import asyncio
import contextlib
import json
from collections.abc import Callable

import msgspec
import pytest

from kronos_stream.wire.codecs import decode, encode
from kronos_stream.wire.messages import Bar, Tick
from kronos_stream.wire.partitioning import partition_of
from kronos_stream.wire.topics import Commit, Record
from tests.fakes import Crash, FakeBroker, FakeCluster, steps_until
from tests.tick_sessions import GRACE, STEP, T0

from .stage import (
    BARS,
    GROUP,
    LATE,
    REJECTED,
    TICKS,
    Feed,
    bars_of,
    folded,
    running,
    service_of,
    settings_of,
    until_idle,
)


def _first_of_each(records: list[Record], identity: Callable[[Record], object]) -> dict:
    kept: dict[object, bytes] = {}
    for record in records:
        kept.setdefault(identity(record), record.value)
    return kept


def _content(cluster: FakeCluster) -> tuple[dict, dict]:
    """What consumers that keep the first of each id see: bars and late ticks."""

    def bar(record: Record) -> object:
        b = decode(record.value, record.headers, Bar)
        return b.symbol, b.open_time, b.revision

    def source(record: Record) -> object:
        h = dict(record.headers)
        return h["source_partition"], h["source_offset"]

    return (
        _first_of_each(cluster.records(BARS), bar),
        _first_of_each(cluster.records(LATE), source),
    )


async def test_a_bar_goes_to_the_partition_of_its_ticks_with_its_own_time() -> None:
    cluster = FakeCluster()
    feed = Feed(cluster)
    feed.marker(T0)
    feed.tick("BTCUSDT", T0 + 1, "100", "2")
    feed.tick("BTCUSDT", T0 + 2, "101", "1")
    feed.marker(T0 + STEP + GRACE)
    await folded(FakeBroker(cluster), settings_of(("BTCUSDT",)))
    (record,) = cluster.records(BARS)
    assert record.partition == partition_of("BTCUSDT", 4)
    assert (record.key, record.timestamp) == (b"BTCUSDT", T0)
    assert dict(record.headers) == {"schema": b"bar/1"}
    bar = decode(record.value, record.headers, Bar)
    assert (bar.open, bar.high, bar.low, bar.close) == (100, 101, 100, 101)
    assert (bar.volume, bar.amount, bar.trades) == (3, 301, 2)


async def test_msgpack_is_told_by_a_header() -> None:
    cluster = FakeCluster()
    Feed(cluster).session(range(2))
    await folded(FakeBroker(cluster), settings_of(wire="msgpack"))
    records = cluster.records(BARS)
    assert records
    assert {dict(r.headers)["wire"] for r in records} == {b"msgpack"}
    assert msgspec.msgpack.decode(records[0].value, type=Bar).open_time == T0


async def test_the_commit_is_the_oldest_open_tick_and_the_watermark_before_it() -> None:
    cluster = FakeCluster(partitions=1)
    feed = Feed(cluster)
    feed.marker(T0)
    feed.tick("BTCUSDT", T0 + 1)
    feed.marker(T0 + STEP + GRACE)
    feed.tick("BTCUSDT", T0 + STEP + GRACE + 5)
    feed.marker(T0 + STEP + GRACE + 250)
    await folded(FakeBroker(cluster), settings_of(("BTCUSDT",)))
    commit = cluster.commits[GROUP, TICKS, 0]
    assert commit.offset == 3
    assert {"w": json.loads(commit.metadata)["w"]} == {"w": T0 + STEP + GRACE}


async def test_a_restart_publishes_nothing_again() -> None:
    cluster = FakeCluster()
    feed = Feed(cluster)
    feed.session(range(4))
    await folded(FakeBroker(cluster))
    bars = cluster.records(BARS)
    await folded(FakeBroker(cluster))
    assert cluster.records(BARS) == bars
    feed.session(range(4, 6), seed=8)
    await folded(FakeBroker(cluster))
    once = FakeCluster()
    feed = Feed(once)
    feed.session(range(4))
    feed.session(range(4, 6), seed=8)
    await folded(FakeBroker(once))
    assert _content(cluster) == _content(once)


async def test_a_new_group_on_old_topics_publishes_nothing_twice() -> None:
    cluster = FakeCluster()
    Feed(cluster).session(range(4))
    await folded(FakeBroker(cluster))
    bars = cluster.records(BARS)
    cluster.commits.clear()
    await folded(FakeBroker(cluster))
    assert cluster.records(BARS) == bars


async def test_embedded_folds_from_the_beginning() -> None:
    cluster, real = FakeCluster(), FakeCluster()
    for c in (cluster, real):
        Feed(c).session(range(3))
    await folded(FakeBroker(cluster, embedded=True))
    await folded(FakeBroker(real))
    assert cluster.commits == {}
    assert _content(cluster) == _content(real)


async def test_the_same_content_whatever_step_it_dies_at() -> None:
    """Dies at every step in turn, each time right after a restart, until all is done."""
    whole, cluster = FakeCluster(partitions=2), FakeCluster(partitions=2)
    for c in (whole, cluster):
        Feed(c).session(range(5))
    await folded(FakeBroker(whole))
    expected = _content(whole)
    crashes = 0
    for at in range(400):
        broker = FakeBroker(cluster, fault=steps_until(at))
        service = service_of(broker)
        task = asyncio.create_task(service.run())
        idle = asyncio.create_task(until_idle(service))
        await asyncio.wait({task, idle}, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        if not task.done():
            task.cancel()
        with contextlib.suppress(Crash, asyncio.CancelledError):
            await task
        if not broker.dead:
            break
        crashes += 1
    assert crashes > 20
    await folded(FakeBroker(cluster))
    assert _content(cluster) == expected
    assert expected[1]


@pytest.mark.parametrize("step", ["send", "send_done", "flush_done", "commit", "commit_done"])
@pytest.mark.parametrize("at", [0, 1, 5, 20])
async def test_dying_at_the_same_step_once_and_again(step: str, at: int) -> None:
    whole, cluster = FakeCluster(partitions=2), FakeCluster(partitions=2)
    for c in (whole, cluster):
        Feed(c).session(range(5))
    await folded(FakeBroker(whole))
    for _ in range(3):
        broker = FakeBroker(cluster, fault=steps_until(at, only=[step]))
        service = service_of(broker)
        task = asyncio.create_task(service.run())
        idle = asyncio.create_task(until_idle(service))
        await asyncio.wait({task, idle}, return_when=asyncio.FIRST_COMPLETED)
        for t in (task, idle):
            t.cancel()
        with contextlib.suppress(Crash, asyncio.CancelledError):
            await task
    await folded(FakeBroker(cluster))
    assert _content(cluster) == _content(whole)


async def test_a_zombie_and_its_successor_make_the_same_bars() -> None:
    whole, cluster = FakeCluster(), FakeCluster()
    for c in (whole, cluster):
        feed = Feed(c)
        feed.session(range(3))
    await folded(FakeBroker(whole))
    async with running(FakeBroker(cluster)) as zombie, running(FakeBroker(cluster)) as heir:
        await until_idle(zombie)
        cluster.evict(zombie._subscription)  # type: ignore[arg-type]
        await until_idle(heir)
        commits = dict(cluster.commits)
        assert not await zombie._subscription.commit({0: Commit(0)})
        assert cluster.commits == commits
        for c in (whole, cluster):
            Feed(c).session(range(3, 5), seed=9)
        await until_idle(zombie)
        await until_idle(heir)
    await folded(FakeBroker(whole))
    assert _content(cluster) == _content(whole)


async def test_members_come_and_go() -> None:
    whole, cluster = FakeCluster(partitions=8), FakeCluster(partitions=8)
    async with contextlib.AsyncExitStack() as stack:
        for i in range(4):
            await stack.enter_async_context(running(FakeBroker(cluster)))
            service = await stack.enter_async_context(running(FakeBroker(cluster)))
            for c in (whole, cluster):
                Feed(c).session(range(2 * i, 2 * i + 2))
            await until_idle(service)
    await folded(FakeBroker(cluster))
    await folded(FakeBroker(whole))
    assert _content(cluster) == _content(whole)


async def test_poison_goes_aside_and_the_stream_goes_on() -> None:
    cluster = FakeCluster(partitions=1)
    feed = Feed(cluster)
    feed.marker(T0)
    junk = [b"{not json", b"", b'{"symbol":"BTCUSDT"}', b"\xff" * 1_000_000, b"[1,2]", b"null"]
    for value in junk:
        cluster.append(TICKS, value, timestamp=T0)
        cluster.append(TICKS, value, timestamp=T0, headers=(("wire", b"msgpack"),))
    feed.tick("BTCUSDT", T0 + 1, "-5")
    feed.tick("BTCUSDT", T0 + 90_000_000)
    cluster.logs[TICKS, 0][-1] = cluster.logs[TICKS, 0][-1]._replace(timestamp=T0)
    feed.tick("BTCUSDT", T0 + 1)
    feed.marker(T0 + STEP + GRACE)
    await folded(FakeBroker(cluster), settings_of(("BTCUSDT",)))
    rejected = cluster.records(REJECTED)
    assert len(rejected) == 2 * len(junk) + 2
    assert all(len(r.value) <= 65_536 for r in rejected)
    assert all(dict(r.headers)["reason"] for r in rejected)
    assert [int(dict(r.headers)["source_offset"]) for r in rejected] == list(range(1, 15))
    assert [bar.trades for bar in bars_of(cluster)] == [1]


async def test_a_tick_in_the_wrong_partition_is_rejected_unless_any_will_do() -> None:
    for partitioner, expected in (("murmur2", 0), ("any", 1)):
        cluster = FakeCluster(partitions=4)
        wrong = (partition_of("BTCUSDT", 4) + 1) % 4
        value, headers = encode(Tick(symbol="BTCUSDT", price="1", qty="1", time=T0 + 1, trade_id=1))
        feed = Feed(cluster)
        feed.marker(T0)
        cluster.append(TICKS, value, partition=wrong, timestamp=T0, headers=headers)
        feed.marker(T0 + STEP + GRACE)
        settings = settings_of(("BTCUSDT",), kafka={"partitioner": partitioner})
        await folded(FakeBroker(cluster), settings)
        assert [bar.trades for bar in bars_of(cluster)] == [1] * expected
        reasons = [dict(r.headers)["reason"] for r in cluster.records(REJECTED)]
        assert reasons == [b"wrong_partition"] * (1 - expected)


async def test_late_ticks_carry_their_source() -> None:
    cluster = FakeCluster(partitions=1)
    feed = Feed(cluster)
    feed.marker(T0)
    feed.tick("BTCUSDT", T0 + 1)
    feed.marker(T0 + STEP + GRACE)
    feed.tick("BTCUSDT", T0 + 2)
    late: list[str] = []
    await folded(FakeBroker(cluster), settings_of(("BTCUSDT",)), on_late=late.append)
    (record,) = cluster.records(LATE)
    headers = dict(record.headers)
    assert (headers["source_topic"], headers["source_offset"]) == (TICKS.encode(), b"3")
    assert (headers["reason"], headers["schema"]) == (b"late", b"tick/1")
    assert late == ["BTCUSDT"]


@pytest.mark.parametrize(
    "commit", [Commit(5, "not json"), Commit(10_000, '{"w":null}'), Commit(5, "")]
)
async def test_a_commit_that_is_not_ours_means_from_the_beginning(commit: Commit) -> None:
    whole, cluster = FakeCluster(partitions=1), FakeCluster(partitions=1)
    for c in (whole, cluster):
        Feed(c).session(range(3))
    cluster.commits[GROUP, TICKS, 0] = commit
    await folded(FakeBroker(whole))
    await folded(FakeBroker(cluster))
    assert _content(cluster) == _content(whole)


class Counting:
    """Back-pressure that only counts."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}

    def produced(self, stage: str, amount: int) -> None:
        key = ("produced", stage)
        self.counts[key] = self.counts.get(key, 0) + amount

    def consumed(self, stage: str, amount: int) -> None:
        key = ("consumed", stage)
        self.counts[key] = self.counts.get(key, 0) + amount


async def test_the_feed_learns_what_was_read_and_the_console_what_was_published() -> None:
    cluster, pressure, seen = FakeCluster(), Counting(), []
    Feed(cluster).session(range(3))
    await folded(FakeBroker(cluster), backpressure=pressure, on_bar=seen.append)
    assert seen == sorted(bars_of(cluster), key=seen.index)
    assert pressure.counts == {
        ("consumed", "ticks"): sum(len(r.value) for r in cluster.records(TICKS)),
        ("produced", "bars"): len(seen),
    }


async def test_unlisted_symbols_are_taken_only_when_told_so() -> None:
    for symbols, expected in ((("BTCUSDT",), {"BTCUSDT"}), ("all", {"BTCUSDT", "ETHUSDT"})):
        cluster = FakeCluster(partitions=1)
        feed = Feed(cluster)
        feed.marker(T0)
        feed.tick("BTCUSDT", T0 + 1)
        feed.tick("ETHUSDT", T0 + 1)
        feed.marker(T0 + STEP + GRACE)
        await folded(FakeBroker(cluster), settings_of(symbols))
        assert {bar.symbol for bar in bars_of(cluster)} == expected
