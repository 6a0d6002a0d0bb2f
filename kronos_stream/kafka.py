"""The broker: the only file that imports aiokafka.

Two kinds of broker stand behind one class. A real Kafka has consumer groups, committed offsets,
an admin API and search by time. The embedded one (librdkafka's mock cluster) has none of these:
there every subscription owns all partitions, nothing is committed and a search by time finds the
beginning.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Final, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    for_code,
)

from .errors import BrokerError
from .kafka_security import credentials
from .settings import KafkaSettings
from .telemetry import ASSIGNMENTS_LOST, PRODUCERS_REPLACED
from .wire.topics import Commit, Record, Topics, TopicSpec

__all__ = ["Broker", "Commit", "Publisher", "Record", "Subscription", "Topics"]

log = structlog.get_logger()
T = TypeVar("T")

EMBEDDED_FETCH_WAIT_MS: Final = 5
"""The mock cluster answers a fetch only when this has passed, data or not."""
FETCH_WAIT_MS: Final = 50
"""aiokafka keeps one fetch in flight per node: a partition that was sought or resumed meanwhile
waits for it to return."""
BATCH_BYTES: Final = 128 * 1024
CLOSE_TIMEOUT_S: Final = 1.5
RETRY_S: Final = 0.1
READY_TIMEOUT_S: Final = 30.0


def _records(found: Iterable[Any]) -> list[Record]:
    """aiokafka's records have the fields of ours and pass as they are: one more object for each
    would cost a tenth of reading it. Only a missing value becomes an empty one."""
    return [r if r.value is not None else _empty(r) for r in found]


def _empty(r: Any) -> Record:
    return Record(r.topic, r.partition, r.offset, r.timestamp, r.key, b"", r.headers)


async def _retried(call: Callable[[], Awaitable[T]], what: str) -> T:
    """Call until it succeeds. Only errors that the client names retriable (a coordinator still
    loading, a leader being elected) are tried again, for at most READY_TIMEOUT_S."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            return await call()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise BrokerError(f"{what}: {error!r}") from error
        await asyncio.sleep(RETRY_S)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """aiokafka logs what it also raises: where an error tells it all, its log lines are noise."""
    logger = logging.getLogger("aiokafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


async def _closed(stop: Callable[[], Coroutine[Any, Any, None]], client: Any) -> None:
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


class Broker:
    """One per process: topics, offsets and the factories of publishers and subscriptions."""

    def __init__(
        self, settings: KafkaSettings, *, bootstrap: str, embedded: bool, interval: str
    ) -> None:
        self.settings = settings
        self.bootstrap = bootstrap
        self.embedded = embedded
        self.topics = Topics(settings.topic_prefix, interval)
        self._admin: AIOKafkaAdminClient | None = None
        self._query: AIOKafkaConsumer | None = None
        self._partitions: dict[str, int] = {}
        self._who: dict[str, Any] = {}
        """How the broker is spoken to, and as whom."""

    async def start(self) -> None:
        """Connect; raises BrokerError where nothing answers at the address."""
        self._who = credentials(self.settings)
        self._admin = AIOKafkaAdminClient(
            bootstrap_servers=self.bootstrap,
            request_timeout_ms=self.settings.request_timeout_ms,
            **self._who,
        )
        self._query = self._consumer()
        try:
            with _silenced():
                await self._admin.start()
                await self._query.start()
        except (KafkaError, OSError, ValueError) as error:
            await self.close()
            raise BrokerError(
                f"kafka.bootstrap: expected a broker at {self.bootstrap}, got {error!r}"
            ) from error

    async def close(self) -> None:
        """Close the connections of this object; publishers and subscriptions are their owners'."""
        if self._query is not None:
            await _closed(self._query.stop, self._query._client)
        if self._admin is not None:
            await self._admin.close()
        self._query = self._admin = None

    async def ensure_topics(self) -> None:
        """Create what is missing, where the broker allows it.

        Raises BrokerError naming the topic where it is missing and creation is refused.
        """
        if self.embedded:
            for topic in self.topics.all:
                await self.partitions(topic)
            return
        sizes = await self._sizes()
        missing = [s for s in self.topics.specs() if s.name not in sizes]
        if not missing:
            return
        ticks = sizes.get(self.topics.ticks, self.settings.partitions)
        new = [
            NewTopic(s.name, s.partitions or ticks, self.settings.replication, None, s.configs)
            for s in missing
        ]
        admin = self._connected()
        response = await _retried(lambda: admin.create_topics(new), "creating topics")
        for name, code, message in response.topic_errors:
            kind = for_code(code)
            if code and kind is not TopicAlreadyExistsError:
                raise BrokerError(
                    f"topic {name} is missing and the broker refused to create it: "
                    f"{kind.__name__} {message or ''}".rstrip()
                )
        log.info("topics_created", topics=[s.name for s in missing])
        # A topic just created is not at once known everywhere.
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not {s.name for s in missing} <= (await self._sizes()).keys():
            if time.monotonic() > deadline:
                raise BrokerError(f"topics created {READY_TIMEOUT_S:g} s ago have no leaders yet")
            await asyncio.sleep(RETRY_S)

    async def check_topics(self) -> list[str]:
        """What differs from how the topics should be, one line a finding. The embedded broker makes
        its topics by itself and all alike: nothing to find."""
        if self.embedded:
            return []
        sizes = await self._sizes()
        ticks = sizes.get(self.topics.ticks)
        specs = self.topics.specs()
        findings = [f"{s.name}: missing" for s in specs if s.name not in sizes]
        present = [s for s in specs if s.name in sizes]
        for spec in present:
            wanted = spec.partitions or ticks
            if wanted is not None and sizes[spec.name] != wanted:
                findings.append(
                    f"{spec.name}: {sizes[spec.name]} partitions, expected {wanted}"
                    + ("" if spec.partitions else f" as {self.topics.ticks}")
                )
        return findings + await self._config_findings(present)

    async def _config_findings(self, specs: Sequence[TopicSpec]) -> list[str]:
        admin = self._connected()
        asked = [ConfigResource(ConfigResourceType.TOPIC, spec.name) for spec in specs]
        if not asked:
            return []
        found: dict[str, dict[str, str]] = {}
        for response in await _retried(lambda: admin.describe_configs(asked), "reading configs"):
            for _code, _message, _kind, name, entries in response.resources:
                found[name] = {entry[0]: entry[1] for entry in entries}
        return [
            f"{spec.name}: {key}={found[spec.name].get(key)}, expected {value}"
            for spec in specs
            for key, value in spec.configs.items()
            if found.get(spec.name, {}).get(key) != value
        ]

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has; waits until all have a leader (creation takes a
        moment). Raises BrokerError where there is no such topic."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while topic not in self._partitions:
            sizes = await self._sizes([topic] if self.embedded else None)
            if topic in sizes:
                self._partitions[topic] = sizes[topic]
            elif time.monotonic() > deadline or not self.embedded:
                raise BrokerError(
                    f"topic {topic} does not exist on {self.bootstrap}: create it with "
                    "`kronos-stream topics --create` or let the feed do so"
                )
            else:
                await asyncio.sleep(RETRY_S)
        return self._partitions[topic]

    async def begin_offsets(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The first offset that the broker still has, by partition."""
        query, tps = self._connected_query(), _tps(topic, partitions)
        found = await _retried(lambda: query.beginning_offsets(tps), f"begin of {topic}")
        return {tp.partition: offset for tp, offset in found.items()}

    async def end_offsets(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The offset that the next record will get, by partition."""
        query, tps = self._connected_query(), _tps(topic, partitions)
        found = await _retried(lambda: query.end_offsets(tps), f"end of {topic}")
        return {tp.partition: offset for tp, offset in found.items()}

    async def offsets_for_times(self, topic: str, times: Mapping[int, int]) -> dict[int, int]:
        """The first offset whose record time is at or after `times[partition]` (ms); the end where
        there is none; the beginning on the embedded broker, which cannot search."""
        if self.embedded or not times:
            return await self.begin_offsets(topic, times)
        query = self._connected_query()
        asked = {TopicPartition(topic, p): max(0, ms) for p, ms in times.items()}
        found = await _retried(lambda: query.offsets_for_times(asked), f"times of {topic}")
        offsets = {tp.partition: at.offset for tp, at in found.items() if at is not None}
        beyond = [p for p in times if p not in offsets]
        return offsets | (await self.end_offsets(topic, beyond) if beyond else {})

    async def read(
        self, topic: str, partition: int, start: int, end: int
    ) -> AsyncIterator[list[Record]]:
        """The records of `[start, end)`, in batches, through a consumer of its own."""
        if start >= end:
            return
        tp = TopicPartition(topic, partition)
        consumer = self._consumer()
        try:
            await consumer.start()
            consumer.assign([tp])
            consumer.seek(tp, start)
            # The position, not the last record, tells the end: markers of others' transactions
            # take offsets too.
            while await consumer.position(tp) < end:
                got = await consumer.getmany(tp, timeout_ms=FETCH_WAIT_MS)
                records = _records(r for r in got.get(tp, ()) if r.offset < end)
                if records:
                    yield records
        except KafkaError as error:
            raise BrokerError(f"reading {topic}/{partition} from {start}: {error!r}") from error
        finally:
            await _closed(consumer.stop, consumer._client)

    async def committed(
        self, group: str, topic: str, partitions: Iterable[int]
    ) -> dict[int, Commit | None]:
        """The group's commits with their metadata, which only the admin client returns.

        Partitions without a commit map to None; on the embedded broker nothing is committed.
        """
        if self.embedded:
            return {}
        admin, tps = self._connected(), _tps(topic, partitions)
        if not tps:
            return {}
        found = await _retried(
            lambda: admin.list_consumer_group_offsets(group, partitions=tps), f"group {group}"
        )
        return {
            tp.partition: Commit(found[tp].offset, found[tp].metadata or "")
            if tp in found and found[tp].offset >= 0
            else None
            for tp in tps
        }

    async def groups(self, prefix: str) -> dict[str, int]:
        """The consumer groups whose names begin so, and how many members each has."""
        admin = self._connected()
        listed = await _retried(admin.list_consumer_groups, "listing groups")
        names = sorted(group[0] for group in listed if group[0].startswith(prefix))
        if not names:
            return {}
        responses = await _retried(
            lambda: admin.describe_consumer_groups(names), f"groups {', '.join(names)}"
        )
        described = [group for response in responses for group in response.groups]
        return {group[1]: len(group[5]) for group in described}

    async def move(self, group: str, topic: str, commits: Mapping[int, Commit]) -> None:
        """Set the positions of a group that has no members."""
        consumer = self._consumer(group_id=group)
        try:
            await consumer.start()
            consumer.assign(_tps(topic, commits))
            await consumer.commit({TopicPartition(topic, p): tuple(c) for p, c in commits.items()})
        except KafkaError as error:
            raise BrokerError(f"moving group {group}: {error!r}") from error
        finally:
            await _closed(consumer.stop, consumer._client)

    async def recreate(self, topic: str) -> None:
        """Delete one of our topics and create it anew, empty."""
        admin = self._connected()
        await _retried(lambda: admin.delete_topics([topic]), f"deleting {topic}")
        deadline = time.monotonic() + READY_TIMEOUT_S
        while topic in await self._sizes():
            if time.monotonic() > deadline:
                raise BrokerError(f"{topic} is still there {READY_TIMEOUT_S:g} s after its end")
            await asyncio.sleep(RETRY_S)
        self._partitions.pop(topic, None)
        await self.ensure_topics()

    def publisher(self, *, linger_ms: int = 1) -> "Publisher":
        """A new publisher; its owner starts and closes it."""

        def producer() -> AIOKafkaProducer:
            return AIOKafkaProducer(
                bootstrap_servers=self.bootstrap,
                enable_idempotence=True,
                acks="all",
                linger_ms=linger_ms,
                max_batch_size=BATCH_BYTES,
                max_request_size=self.settings.max_message_bytes,
                request_timeout_ms=self.settings.request_timeout_ms,
                **self._who,
            )

        return Publisher(producer)

    def subscription(
        self, topic: str, *, group: str, instance_id: str | None = None
    ) -> "Subscription":
        """A new subscription; its owner starts and stops it."""
        if self.embedded:
            return Subscription(self, self._consumer(), topic, None)
        instance_id = instance_id or self.settings.instance_id
        consumer = self._consumer(
            group_id=group,
            group_instance_id=instance_id,
            session_timeout_ms=self.settings.session_timeout_ms,
            heartbeat_interval_ms=self.settings.heartbeat_ms,
            # aiokafka's default is the session timeout: too short for a slow member's hand-over.
            rebalance_timeout_ms=self.settings.rebalance_timeout_ms,
        )
        return Subscription(self, consumer, topic, group, instance_id)

    def tail(self, topic: str) -> "Subscription":
        """All partitions of a topic without any group, on either broker: nothing is committed, so
        any number of readers see everything."""
        return Subscription(self, self._consumer(), topic, None)

    def _consumer(self, **more: Any) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=EMBEDDED_FETCH_WAIT_MS if self.embedded else FETCH_WAIT_MS,
            max_partition_fetch_bytes=max(1 << 20, self.settings.max_message_bytes),
            request_timeout_ms=self.settings.request_timeout_ms,
            **self._who,
            **more,
        )

    async def _sizes(self, topics: list[str] | None = None) -> dict[str, int]:
        """Partitions of the topics that exist and whose partitions all have leaders. Asking for
        all topics creates none; asking for one by name may."""
        admin = self._connected()
        found = await _retried(lambda: admin.describe_topics(topics), "reading topics")
        return {
            t["topic"]: len(t["partitions"])
            for t in found
            if t["partitions"] and all(p["leader"] >= 0 for p in t["partitions"])
        }

    def _connected(self) -> Any:
        if self._admin is None:
            raise BrokerError("the broker was not started")
        return self._admin

    def _connected_query(self) -> Any:
        if self._query is None:
            raise BrokerError("the broker was not started")
        return self._query


def _tps(topic: str, partitions: Iterable[int]) -> list[TopicPartition]:
    return [TopicPartition(topic, p) for p in partitions]


class Publisher:
    """Idempotent, acks=all. Records keep their order within a partition."""

    def __init__(self, make: Callable[[], AIOKafkaProducer]) -> None:
        self._make = make
        self._producer: AIOKafkaProducer | None = None
        self._broken = False
        self._failed: BaseException | None = None
        self._renewing = asyncio.Lock()

    async def start(self) -> None:
        """Connect."""
        self._producer = self._make()
        await self._producer.start()

    async def close(self) -> None:
        """Send what is buffered, then close."""
        if self._producer is not None:
            await _closed(self._producer.stop, self._producer.client)
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


class Subscription:
    """All partitions of one topic (embedded), or this member's share of them (a group).

    After every rebalance the owner takes the new assignment, finds out where to start, seeks; only
    then are records of a partition delivered.
    """

    def __init__(
        self,
        broker: Broker,
        consumer: AIOKafkaConsumer,
        topic: str,
        group: str | None,
        instance_id: str | None = None,
    ) -> None:
        self._broker = broker
        self._consumer = consumer
        self._topic = topic
        self._group = group
        self._instance_id = instance_id
        self._session_s = broker.settings.session_timeout_ms / 1000
        self._assigned: frozenset[int] | None = None
        self._changed = False
        self._wake = asyncio.Event()
        self._sought: set[int] = set()
        self._poll: asyncio.Task[dict[TopicPartition, list[Any]]] | None = None
        self._pulse: asyncio.Task[None] | None = None
        self._last_pulse = time.monotonic()
        self._evicted: str | None = None

    async def start(self) -> None:
        """Connect and, in a group, begin to join it; `take_assignment` tells when that is done."""
        partitions = await self._broker.partitions(self._topic)
        try:
            await self._consumer.start()
        except KafkaError as error:
            raise BrokerError(f"subscribing to {self._topic}: {error!r}") from error
        if self._group is None:
            self._consumer.assign(_tps(self._topic, range(partitions)))
            self._on_assigned(range(partitions))
            return
        # Subscribed after the start, which would otherwise wait for the first assignment.
        self._consumer.subscribe([self._topic], listener=_Listener(self))
        self._last_pulse = time.monotonic()
        self._pulse = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """Leave the group (a static member stays in it by nature) and close."""
        tasks = [self._pulse, self._poll]
        if self._evicted:
            # aiokafka would now join again and evict the process that took our place; its
            # coordination waits in our listener.
            tasks.append(self._consumer._coordinator._coordination_task)
        for task in tasks:
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, KafkaError):
                    await task
        await _closed(self._consumer.stop, self._consumer._client)

    async def poll(
        self, *, max_wait_ms: int, max_records: int | None = None
    ) -> dict[int, list[Record]]:
        """New records by partition; {} after `max_wait_ms`, and while an assignment is to be taken.

        Raises BrokerError when this member must not go on: evicted, or its position is gone.
        """
        self._check()
        if self._changed:
            await self._rebalanced(max_wait_ms / 1000)
            return {}
        if self._poll is None:
            # With nothing sought yet, a partition that does not exist: getmany() without any
            # would mean all of them, and not calling it at all for five minutes means leaving.
            tps = _tps(self._topic, self._sought or (-1,))
            self._poll = asyncio.create_task(
                self._consumer.getmany(*tps, timeout_ms=max_wait_ms, max_records=max_records)
            )
        # Not cancelled on a timeout: during a rebalance getmany() blocks, and a cancelled one
        # leaves aiokafka's count of running fetches wrong.
        await asyncio.wait({self._poll}, timeout=max_wait_ms / 1000 + 0.01)
        if not self._poll.done():
            return {}
        task, self._poll = self._poll, None
        failed = task.exception()
        self._check()
        if self._changed:
            # Whether records or an error, it belongs to an assignment that is no more, or to one
            # where nothing is sought yet.
            return {}
        if isinstance(failed, OffsetOutOfRangeError):
            raise BrokerError(
                f"{self._topic}: retention removed records before they were read: {failed}"
            ) from failed
        if failed is not None:
            raise BrokerError(f"reading {self._topic}: {failed!r}") from failed
        got = task.result()
        return {
            tp.partition: _records(records)
            for tp, records in got.items()
            if tp.partition in self._sought
        }

    async def _rebalanced(self, max_wait_s: float) -> None:
        """Wait for the rebalance to end, and for the fetch that was running when it began: that
        one must not run on into the new assignment, whose partitions are not sought yet."""
        if self._poll is not None:
            await asyncio.wait({self._poll}, timeout=max_wait_s)
            if self._poll.done():
                task, self._poll = self._poll, None
                if task.exception() is not None:
                    log.debug("fetch_void", topic=self._topic, error=repr(task.exception()))
        elif self._assigned is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max_wait_s):
                    await self._wake.wait()

    @property
    def assigned(self) -> bool:
        """Whether this member has its share, and no rebalance is under way."""
        return self._assigned is not None and not self._changed and not self._evicted

    def take_assignment(self) -> frozenset[int] | None:
        """The whole new assignment after any rebalance since the last call; None: unchanged, or
        the rebalance is not finished (go on polling). What was in flight for the old is void."""
        if not self._changed or self._assigned is None or self._poll is not None:
            return None
        self._changed = False
        self._sought.clear()
        return self._assigned

    @property
    def owned(self) -> bool:
        """Whether what was read may still be acted upon: no rebalance since the assignment was
        taken, and no stall longer than the session. To be asked before publishing."""
        self._check()
        return not self._changed

    def seek(self, partition: int, offset: int) -> None:
        """Deliver this partition's records from `offset` on."""
        tp = TopicPartition(self._topic, partition)
        with self._while_assigned():
            self._consumer.seek(tp, offset)
            self._consumer.resume(tp)
            self._sought.add(partition)

    async def position(self, partition: int) -> int:
        """The offset of the next record that `poll` will give."""
        return int(await self._consumer.position(TopicPartition(self._topic, partition)))

    def pause(self, partitions: Iterable[int]) -> None:
        """Deliver nothing of these; polling must go on, for it keeps the membership."""
        for p in self._sought.intersection(partitions):
            with self._while_assigned():
                self._consumer.pause(TopicPartition(self._topic, p))

    def resume(self, partitions: Iterable[int]) -> None:
        """Deliver these again, from where they were paused."""
        for p in self._sought.intersection(partitions):
            with self._while_assigned():
                self._consumer.resume(TopicPartition(self._topic, p))

    async def commit(self, commits: Mapping[int, Commit]) -> bool:
        """Store the group's positions. False: the membership under which this was read is gone, so
        nothing more of it may be published. On the embedded broker True, and nothing is stored."""
        if self._group is None or not commits:
            return True
        if not self.owned:
            return False
        offsets = {TopicPartition(self._topic, p): tuple(c) for p, c in commits.items()}
        try:
            await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError):
            log.warning("commit_refused", topic=self._topic, group=self._group)
            return False
        except KafkaError as error:
            raise BrokerError(f"committing in group {self._group}: {error!r}") from error
        return True

    @contextlib.contextmanager
    def _while_assigned(self) -> Any:
        """Between the broker's revocation and our taking notice aiokafka no longer knows the
        partition; the next `take_assignment` settles it."""
        with contextlib.suppress(IllegalStateError):
            yield

    async def _beat(self) -> None:
        while True:
            self._last_pulse = time.monotonic()
            await asyncio.sleep(min(1.0, self._session_s / 4))

    def _check(self) -> None:
        """Notice a stall (a suspended machine, a blocked loop) before any of its consequences
        arrives from the broker: by then another member may own the partitions."""
        if self._pulse is not None and time.monotonic() - self._last_pulse > self._session_s:
            self._last_pulse = time.monotonic()
            self._lose(f"this process stalled longer than its session of {self._session_s:g} s")
        if self._evicted:
            raise BrokerError(f"group {self._group}: {self._evicted}")

    def _lose(self, why: str) -> None:
        if self._instance_id is not None:
            self._evicted = f"static member {self._instance_id}: {why}"
        ASSIGNMENTS_LOST.inc()
        log.warning("assignment_lost", group=self._group, reason=why)
        self._changed = True
        self._sought.clear()

    def _on_assigned(self, partitions: Iterable[int]) -> None:
        self._assigned = frozenset(partitions)
        # Nothing is fetched before the owner has sought.
        with self._while_assigned():
            self._consumer.pause(*_tps(self._topic, self._assigned))
        self._changed = True
        self._wake.set()

    async def _on_revoked(self) -> None:
        lost = self._assigned is not None and not self._consumer._coordinator.member_id
        self._assigned = None
        self._changed = True
        self._sought.clear()
        self._wake.clear()
        if lost and self._instance_id is not None:
            # aiokafka resets the member id when the broker has disowned it, and then joins again,
            # which for a static member evicts the process that now uses this id: never return.
            self._lose("another process uses this id, or the session expired")
            self._wake.set()
            await asyncio.Event().wait()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Only sets flags: aiokafka logs and swallows what a listener raises."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._subscription._on_revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._subscription._on_assigned(tp.partition for tp in assigned)
