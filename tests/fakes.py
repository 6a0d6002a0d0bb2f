"""A broker in memory with the interface of kronos_stream.kafka.

One `FakeCluster` holds the logs and the groups; each `FakeBroker` is one process on it. Nothing
waits for a wall clock, but for an idle poll, which yields to the other tasks for a moment.

Faults: `broker.fault` is called with the name of every step (`start`, `committed`, `read`, `poll`,
`send`, `flush`, `commit`) before its effect, and with `send_done`, `flush_done`, `commit_done`
after it. Raising `Crash` there kills the process: every later step raises too.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

from kronos_stream.errors import BrokerError
from kronos_stream.settings import KafkaSettings
from kronos_stream.wire.topics import Commit, Record, Topics

IDLE_S = 0.001


class Crash(BaseException):
    """The process died here. Not an Exception, so that no handler of the code under test sees it
    as an error that it may deal with."""


class FakeCluster:
    """Logs, commits and group membership, shared by the processes of a test."""

    def __init__(self, *, partitions: int = 4, clock: Callable[[], int] = lambda: 0) -> None:
        self.partitions = partitions
        self.clock = clock
        self.logs: dict[tuple[str, int], list[Record]] = defaultdict(list)
        self.begins: dict[tuple[str, int], int] = defaultdict(int)
        self.commits: dict[tuple[str, str, int], Commit] = {}
        self.groups: dict[str, list[FakeSubscription]] = defaultdict(list)

    def append(
        self,
        topic: str,
        value: bytes,
        *,
        partition: int = 0,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> int:
        """Write as any producer would; the offset."""
        log = self.logs[topic, partition]
        offset = len(log)
        at = self.clock() if timestamp is None else timestamp
        log.append(Record(topic, partition, offset, at, key, value, tuple(headers)))
        return offset

    def records(self, topic: str) -> list[Record]:
        """Everything on a topic, partition by partition."""
        return [r for (name, _), log in sorted(self.logs.items()) if name == topic for r in log]

    def cut(self, topic: str, partition: int, offset: int) -> None:
        """Retention: records before `offset` are gone."""
        self.begins[topic, partition] = offset

    def rebalance(self, group: str) -> None:
        """Everything is revoked from everyone, then dealt out in turn, as Kafka's clients do."""
        members = self.groups[group]
        for i, member in enumerate(members):
            size = member.partition_count
            member.assign(frozenset(range(i, size, len(members))))

    def evict(self, member: "FakeSubscription") -> None:
        """The broker disowns a member that has not noticed yet: a zombie."""
        assert member.group is not None
        self.groups[member.group].remove(member)
        member.zombie = True
        self.rebalance(member.group)


class FakeBroker:
    """One process's view of the cluster; `kronos_stream.kafka.Broker` without a network."""

    def __init__(
        self,
        cluster: FakeCluster | None = None,
        *,
        settings: KafkaSettings | None = None,
        interval: str = "5m",
        embedded: bool = False,
        fault: Callable[[str], None] | None = None,
    ) -> None:
        self.cluster = cluster or FakeCluster()
        self.settings = settings or KafkaSettings()
        self.topics = Topics(self.settings.topic_prefix, interval)
        self.embedded = embedded
        self.bootstrap = "fake:9092"
        self.fault = fault
        self.dead = False
        self._single = {self.topics.rejected, self.topics.late, self.topics.skipped}

    def step(self, name: str) -> None:
        """One point at which the process may die."""
        if self.dead:
            raise Crash(name)
        if self.fault is not None:
            try:
                self.fault(name)
            except Crash:
                self.dead = True
                raise

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def ensure_topics(self) -> None: ...

    async def check_topics(self) -> list[str]:
        return []

    async def partitions(self, topic: str) -> int:
        return 1 if topic in self._single and not self.embedded else self.cluster.partitions

    async def begin_offsets(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        return {p: self.cluster.begins[topic, p] for p in partitions}

    async def end_offsets(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        return {p: len(self.cluster.logs[topic, p]) for p in partitions}

    async def offsets_for_times(self, topic: str, times: Mapping[int, int]) -> dict[int, int]:
        if self.embedded:
            return await self.begin_offsets(topic, times)
        found = {}
        for p, ms in times.items():
            log, begin = self.cluster.logs[topic, p], self.cluster.begins[topic, p]
            found[p] = next((r.offset for r in log[begin:] if r.timestamp >= ms), len(log))
        return found

    async def read(
        self, topic: str, partition: int, start: int, end: int
    ) -> AsyncIterator[list[Record]]:
        self.step("read")
        await asyncio.sleep(0)
        records = self.cluster.logs[topic, partition][start:end]
        for i in range(0, len(records), 100):
            yield records[i : i + 100]

    async def committed(
        self, group: str, topic: str, partitions: Iterable[int]
    ) -> dict[int, Commit | None]:
        self.step("committed")
        await asyncio.sleep(0)
        if self.embedded:
            return {}
        return {p: self.cluster.commits.get((group, topic, p)) for p in partitions}

    def publisher(self, *, linger_ms: int = 1) -> "FakePublisher":
        return FakePublisher(self)

    def subscription(
        self, topic: str, *, group: str, instance_id: str | None = None
    ) -> "FakeSubscription":
        return FakeSubscription(self, topic, None if self.embedded else group)


class FakePublisher:
    """Records are in the log when the event loop has turned once, and acknowledged then."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._pending: list[asyncio.Future[int]] = []

    async def start(self) -> None:
        self._broker.step("start")

    async def close(self) -> None:
        if not self._broker.dead:
            await asyncio.gather(*self._pending, return_exceptions=True)

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
        broker = self._broker
        broker.step("send")
        if len(value) > broker.settings.max_message_bytes:
            raise BrokerError(f"sending {len(value)} bytes to {topic}/{partition}: too large")
        if not 0 <= partition < await broker.partitions(topic):
            raise BrokerError(f"sending to {topic}/{partition}: no such partition")
        loop = asyncio.get_running_loop()
        acknowledged: asyncio.Future[int] = loop.create_future()

        def arrive() -> None:
            if broker.dead:
                acknowledged.cancel()
                return
            offset = broker.cluster.append(
                topic, value, partition=partition, key=key, timestamp=timestamp, headers=headers
            )
            if not acknowledged.done():
                acknowledged.set_result(offset)

        loop.call_soon(arrive)
        self._pending.append(acknowledged)
        broker.step("send_done")
        return acknowledged

    async def flush(self) -> None:
        self._broker.step("flush")
        pending, self._pending = self._pending, []
        await asyncio.gather(*pending)
        self._broker.step("flush_done")


class FakeSubscription:
    """A group member, or on an embedded broker the owner of everything."""

    def __init__(self, broker: FakeBroker, topic: str, group: str | None) -> None:
        self._broker = broker
        self._topic = topic
        self.group = group
        self.partition_count = 0
        self.zombie = False
        self._assigned: frozenset[int] | None = None
        self._changed = False
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()
        self.turns = 0
        self.idle_turns = 0
        self._turned = asyncio.Event()

    async def idle(self) -> None:
        """Until three polls in a row from now on found nothing: all was read and dealt with."""
        start = self.turns
        while self.turns < start + 3 or self.idle_turns < 3:
            await self._turned.wait()

    async def start(self) -> None:
        self._broker.step("start")
        self.partition_count = await self._broker.partitions(self._topic)
        if self.group is None:
            self.assign(frozenset(range(self.partition_count)))
        else:
            self._broker.cluster.groups[self.group].append(self)
            self._broker.cluster.rebalance(self.group)

    async def stop(self) -> None:
        """Leave the group, also for the dead: their session ends."""
        members = self._broker.cluster.groups[self.group] if self.group else []
        if self in members:
            members.remove(self)
            assert self.group is not None
            self._broker.cluster.rebalance(self.group)

    def assign(self, partitions: frozenset[int]) -> None:
        self._assigned = partitions
        self._changed = True
        self._positions.clear()
        self._paused.clear()

    async def poll(
        self, *, max_wait_ms: int, max_records: int | None = None
    ) -> dict[int, list[Record]]:
        self._broker.step("poll")
        if self._changed:
            await asyncio.sleep(0)
            return {}
        left = max_records or 500
        got: dict[int, list[Record]] = {}
        for p, position in self._positions.items():
            begin = self._broker.cluster.begins[self._topic, p]
            if position < begin:
                raise BrokerError(f"{self._topic}: retention removed records before they were read")
            records = self._broker.cluster.logs[self._topic, p][position : position + left]
            if records and p not in self._paused:
                got[p] = records
                self._positions[p] = records[-1].offset + 1
                left -= len(records)
            if left <= 0:
                break
        self.turns += 1
        self.idle_turns = 0 if got else self.idle_turns + 1
        self._turned.set()
        self._turned.clear()
        await asyncio.sleep(0 if got else IDLE_S)
        return {} if self._changed else got

    def take_assignment(self) -> frozenset[int] | None:
        if not self._changed:
            return None
        self._changed = False
        return self._assigned

    @property
    def owned(self) -> bool:
        return not self._changed

    def seek(self, partition: int, offset: int) -> None:
        if not self._changed:
            self._positions[partition] = offset

    async def position(self, partition: int) -> int | None:
        return None if self._changed else self._positions.get(partition)

    def pause(self, partitions: Iterable[int]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[int]) -> None:
        self._paused.difference_update(partitions)

    async def commit(self, commits: Mapping[int, Commit]) -> bool:
        self._broker.step("commit")
        await asyncio.sleep(0)
        if self.group is None or not commits:
            return True
        if self._changed or self.zombie:
            return False
        for p, commit in commits.items():
            self._broker.cluster.commits[self.group, self._topic, p] = commit
        self._broker.step("commit_done")
        return True


def steps_until(crash_at: int, *, only: Iterable[str] = ()) -> Callable[[str], None]:
    """A fault that dies at the `crash_at`-th step (from 0), counting only the named ones if any."""
    wanted = frozenset(only)
    seen = 0

    def fault(name: str) -> None:
        nonlocal seen
        if wanted and name not in wanted:
            return
        if seen == crash_at:
            raise Crash(name)
        seen += 1

    return fault
