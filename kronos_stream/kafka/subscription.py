"""Reading: one topic's partitions, all of them or a member's share, through every rebalance."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
)

from ..errors import BrokerError
from ..telemetry import ASSIGNMENTS_LOST
from ..wire.topics import Commit, Record
from .clients import closed, records_of, tps_of
from .tolerant import tolerate

if TYPE_CHECKING:
    from .broker import Broker

log = structlog.get_logger()


class Subscription:
    """All partitions of one topic (embedded), or this member's share of them (a group).

    After every rebalance the owner takes the new assignment, finds out where to start, seeks; only
    then are records of a partition delivered.
    """

    def __init__(
        self,
        broker: "Broker",
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
        self._sought: dict[int, int] = {}
        """The next offset to be delivered, of the partitions that are read."""
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
            self._consumer.assign(tps_of(self._topic, range(partitions)))
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
        await closed(self._consumer.stop, self._consumer._client)

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
            tps = tps_of(self._topic, self._sought or (-1,))
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
            raise await self._out_of_range(failed) from failed
        if isinstance(failed, UnicodeDecodeError):
            # With it went what the call had taken of other partitions.
            tolerate()
            for partition, offset in list(self._sought.items()):
                with self._while_assigned():
                    self._consumer.seek(TopicPartition(self._topic, partition), offset)
            return {}
        if failed is not None:
            raise BrokerError(f"reading {self._topic}: {failed!r}") from failed
        got = {tp.partition: records_of(records) for tp, records in task.result().items()}
        got = {n: records for n, records in got.items() if n in self._sought}
        self._sought |= {n: records[-1].offset + 1 for n, records in got.items()}
        return got

    async def _out_of_range(self, failed: OffsetOutOfRangeError) -> BrokerError:
        """The position is before the begin of its partition, or beyond the end. The begin tells
        which: the end of a topic that was made anew may have come up to the position by now."""
        ((tp, position),) = failed.args[0].items()
        begins = await self._broker.begin_offsets(self._topic, [tp.partition])
        where = f"{self._topic}/{tp.partition}"
        if position < begins[tp.partition]:
            return BrokerError(
                f"{where}: retention removed records before they were read: it begins at "
                f"{begins[tp.partition]}, expected {position}"
            )
        return BrokerError(
            f"{where}: the topic was made anew while it was read: it ends before {position}; "
            "start again"
        )

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
            self._sought[partition] = offset

    async def position(self, partition: int) -> int | None:
        """The offset of the next record that `poll` will give; None where the partition is not read
        (any more): of such a one aiokafka would know none, or wait for one."""
        if self._changed or partition not in self._sought:
            return None
        with self._while_assigned():
            return int(await self._consumer.position(TopicPartition(self._topic, partition)))
        return None

    def pause(self, partitions: Iterable[int]) -> None:
        """Deliver nothing of these; polling must go on, for it keeps the membership."""
        for p in self._sought.keys() & set(partitions):
            with self._while_assigned():
                self._consumer.pause(TopicPartition(self._topic, p))

    def resume(self, partitions: Iterable[int]) -> None:
        """Deliver these again, from where they were paused."""
        for p in self._sought.keys() & set(partitions):
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
            # After a stall this may be the first to run.
            self._notice_stall()
            self._last_pulse = time.monotonic()
            await asyncio.sleep(min(1.0, self._session_s / 4))

    def _notice_stall(self) -> None:
        """A suspended machine, a blocked loop: before any of its consequences arrives from the
        broker, for by then another member may own the partitions."""
        if self._pulse is not None and time.monotonic() - self._last_pulse > self._session_s:
            self._last_pulse = time.monotonic()
            self._lose(f"this process stalled longer than its session of {self._session_s:g} s")

    def _check(self) -> None:
        self._notice_stall()
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
            self._consumer.pause(*tps_of(self._topic, self._assigned))
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
