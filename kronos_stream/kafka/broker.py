"""The broker: topics, offsets, and the clients that read and write.

Two kinds of broker stand behind one class. A real Kafka has consumer groups, committed offsets,
an admin API and search by time. The embedded one (librdkafka's mock cluster) has none of these:
there every subscription owns all partitions, nothing is committed and a search by time finds the
beginning.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError

from ..errors import BrokerError
from ..settings import KafkaSettings
from ..wire.intervals import INTERVAL_MS
from ..wire.topics import Commit, Record, Topics, TopicSpec
from .clients import (
    READY_TIMEOUT_S,
    RETRY_S,
    closed,
    records_of,
    retried,
    silenced,
    tps_of,
)
from .publisher import Publisher
from .security import credentials
from .subscription import Subscription
from .tolerant import tolerate
from .topic_admin import create_topics, members_of, topic_as_it_is

log = structlog.get_logger()

EMBEDDED_FETCH_WAIT_MS: Final = 5
"""The mock cluster answers a fetch only when this has passed, data or not."""
FETCH_WAIT_MS: Final = 50
"""aiokafka keeps one fetch in flight per node: a partition that was sought or resumed meanwhile
waits for it to return."""
BATCH_BYTES: Final = 128 * 1024


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
            with silenced():
                await self._admin.start()
                await self._query.start()
        except (KafkaError, OSError, ValueError) as error:
            await self.close()
            got = "no answer" if isinstance(error, KafkaConnectionError) else repr(error)
            raise BrokerError(
                f"kafka.bootstrap: expected a broker at {self.bootstrap}, got {got}"
            ) from error

    async def close(self) -> None:
        """Close the connections of this object; publishers and subscriptions are their owners'."""
        if self._query is not None:
            await closed(self._query.stop, self._query._client)
        if self._admin is not None:
            await self._admin.close()
        self._query = self._admin = None

    async def ensure_topics(self) -> None:
        """Create what is missing, where the broker allows it.

        Raises BrokerError naming the topic where it is missing and creation is refused, or where it
        has fewer partitions than the ticks, whose number a bar and a forecast keep.
        """
        if not await self.has_controller():
            for topic in self.topics.all:
                self._partitions[topic] = await self._asked_for(topic)
            return
        sizes = await self._sizes()
        missing = [s for s in self.topics.specs() if s.name not in sizes]
        ticks = sizes.get(self.topics.ticks, self.settings.partitions)
        for spec in self.topics.specs():
            if not spec.partitions and sizes.get(spec.name, ticks) < ticks:
                raise BrokerError(
                    f"{spec.name}: expected {ticks} partitions or more, as {self.topics.ticks}, "
                    f"got {sizes[spec.name]}"
                )
        if not missing:
            return
        new = [
            NewTopic(s.name, s.partitions or ticks, self.settings.replication, None, s.configs)
            for s in missing
        ]
        alone = new[0].name == self.topics.ticks
        await self._create(new[:1] if alone else new)
        if alone:  # Somebody else may have made it just now, with another number.
            await self.ensure_topics()

    async def _create(self, new: Sequence[NewTopic]) -> None:
        await create_topics(self._connected(), new)
        # A topic just created is not at once known everywhere.
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not {topic.name for topic in new} <= (await self._sizes()).keys():
            if time.monotonic() > deadline:
                raise BrokerError(f"topics created {READY_TIMEOUT_S:g} s ago have no leaders yet")
            await asyncio.sleep(RETRY_S)

    async def check_topics(self) -> list[str]:
        """What differs from how the topics should be, one line a finding. An embedded broker makes
        its topics by itself and all alike: nothing to find."""
        if not await self.has_controller():
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
        for response in await retried(lambda: admin.describe_configs(asked), "reading configs"):
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
        if topic not in self._partitions:
            look = self._asked_for if self.embedded else self._existing
            self._partitions[topic] = await look(topic)
        return self._partitions[topic]

    async def _existing(self, topic: str) -> int:
        """Partitions of a topic of a real broker."""
        sizes = await self._sizes()
        if topic not in sizes:
            raise BrokerError(
                f"topic {topic} does not exist on {self.bootstrap}" + _hint(topic, sizes)
            )
        return sizes[topic]

    async def has_controller(self) -> bool:
        """Whether the broker makes topics as it is told to. An embedded one, of this process or of
        another, has no controller: it makes a topic when it is asked for it by name."""
        if self.embedded:
            return False
        client = self._connected()._client
        if client.cluster.controller is None:
            await client.force_metadata_update()
        return client.cluster.controller is not None

    async def _asked_for(self, topic: str) -> int:
        """Partitions of a topic of an embedded broker."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while topic not in (sizes := await self._sizes([topic])):
            if time.monotonic() > deadline:
                raise BrokerError(f"the embedded broker has not made topic {topic}")
            await asyncio.sleep(RETRY_S)
        return sizes[topic]

    async def begin_offsets(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The first offset that the broker still has, by partition."""
        query, tps = self._connected_query(), tps_of(topic, partitions)
        found = await retried(lambda: query.beginning_offsets(tps), f"begin of {topic}")
        return {tp.partition: offset for tp, offset in found.items()}

    async def end_offsets(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The offset that the next record will get, by partition."""
        query, tps = self._connected_query(), tps_of(topic, partitions)
        found = await retried(lambda: query.end_offsets(tps), f"end of {topic}")
        return {tp.partition: offset for tp, offset in found.items()}

    async def offsets_for_times(self, topic: str, times: Mapping[int, int]) -> dict[int, int]:
        """The first offset whose record time is at or after `times[partition]` (ms); the end where
        there is none; the beginning on the embedded broker, which cannot search."""
        if self.embedded or not times:
            return await self.begin_offsets(topic, times)
        query = self._connected_query()
        asked = {TopicPartition(topic, p): max(0, ms) for p, ms in times.items()}
        found = await retried(lambda: query.offsets_for_times(asked), f"times of {topic}")
        offsets = {tp.partition: at.offset for tp, at in found.items() if at is not None}
        beyond = [p for p in times if p not in offsets]
        return offsets | (await self.end_offsets(topic, beyond) if beyond else {})

    async def read(
        self, topic: str, partition: int, start: int, end: int
    ) -> AsyncGenerator[list[Record], None]:
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
                try:
                    got = await consumer.getmany(tp, timeout_ms=FETCH_WAIT_MS)
                except UnicodeDecodeError:
                    tolerate()
                    consumer.seek(tp, start)
                    continue
                records = records_of(r for r in got.get(tp, ()) if r.offset < end)
                start = records[-1].offset + 1 if records else start
                if records:
                    yield records
        except KafkaError as error:
            raise BrokerError(f"reading {topic}/{partition} from {start}: {error!r}") from error
        finally:
            await closed(consumer.stop, consumer._client)

    async def committed(
        self, group: str, topic: str, partitions: Iterable[int]
    ) -> dict[int, Commit | None]:
        """The group's commits with their metadata, which only the admin client returns.

        Partitions without a commit map to None; on the embedded broker nothing is committed.
        """
        if self.embedded:
            return {}
        admin, tps = self._connected(), tps_of(topic, partitions)
        if not tps:
            return {}
        found = await retried(
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
        listed = await retried(admin.list_consumer_groups, "listing groups")
        names = sorted(group[0] for group in listed if group[0].startswith(prefix))
        if not names:
            return {}
        return await retried(lambda: members_of(admin, names), f"groups {', '.join(names)}")

    async def move(self, group: str, topic: str, commits: Mapping[int, Commit]) -> None:
        """Set the positions of a group that has no members."""
        consumer = self._consumer(group_id=group)
        try:
            await consumer.start()
            consumer.assign(tps_of(topic, commits))
            await consumer.commit({TopicPartition(topic, p): tuple(c) for p, c in commits.items()})
        except KafkaError as error:
            raise BrokerError(f"moving group {group}: {error!r}") from error
        finally:
            await closed(consumer.stop, consumer._client)

    async def recreate(self, topic: str) -> None:
        """Delete one of our topics and create it anew, empty, as it was otherwise."""
        admin = self._connected()
        same = await topic_as_it_is(admin, topic)
        await retried(lambda: admin.delete_topics([topic]), f"deleting {topic}")
        deadline = time.monotonic() + READY_TIMEOUT_S
        while topic in await self._sizes():
            if time.monotonic() > deadline:
                raise BrokerError(f"{topic} is still there {READY_TIMEOUT_S:g} s after its end")
            await asyncio.sleep(RETRY_S)
        self._partitions.pop(topic, None)
        await self._create([same])

    def publisher(self, *, linger_ms: int = 1) -> Publisher:
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
    ) -> Subscription:
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

    def tail(self, topic: str) -> Subscription:
        """All partitions of a topic without any group, on either broker: nothing is committed, so
        any number of readers see everything."""
        return Subscription(self, self._consumer(), topic, None)

    def _consumer(self, **more: Any) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
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
        found = await retried(lambda: admin.describe_topics(topics), "reading topics")
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


def _hint(topic: str, there: Iterable[str]) -> str:
    """What may be meant by a topic that is not there."""

    def kind(name: str) -> list[str]:
        return [part for part in name.split(".") if part not in INTERVAL_MS]

    alike = sorted(name for name in there if kind(name) == kind(topic))
    if alike:
        return f", but {', '.join(alike)}: is --interval right?"
    return ": create it with `kronos-stream topics --create` or let the feed do so"
