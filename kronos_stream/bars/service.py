"""Ticks to bars, the shell: read, fold, publish, commit.

Everything that decides lies in the fold, which is a pure function of the ticks partition. So this
shell may die at any point: what it then publishes again is identical to what it published before.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from .. import telemetry
from ..clock import wall_ms
from ..errors import BrokerError
from ..feeds.pacing import Backpressure
from ..kafka import Broker, Commit, Record
from ..settings import Settings
from ..wire.codecs import SCHEMA_HEADER, encode, header
from ..wire.ids import digest
from ..wire.intervals import DAY_MS, INTERVAL_MS
from ..wire.messages import SCHEMAS, Bar, Marker
from ..wire.partitioning import partition_of
from ..wire.topics import group_name
from .batches import BatchFold
from .calendar import ALWAYS
from .dead_letters import DeadLetters
from .fold import BarsConfig, PartitionFold
from .outputs import BarOut, LateOut, Output
from .position import Metadata, Start, start_of
from .published import last_published
from .restored import Restored

log = structlog.get_logger()

POLL_MS: Final = 100
COMMIT_EVERY_S: Final = 1.0
STOP_TIMEOUT_S: Final = 1.0
OUTCOMES: Final = ("accepted", "duplicate", "late", "unlisted", "outside_session")
EVENTS: Final = ("dropped_partial", "symbol_silent", "id_reset")
OWNERS_MARKER: Final = ("written_by", b"owner")
"""A header of the markers that this stage writes."""
BATCH: Final = 8192
"""Records read and folded before other tasks (heartbeats) get their turn: some milliseconds of
work in columns, some tens where nothing is plain."""


class _Partition:
    """One owned ticks partition: its fold and what the shell knows about it."""

    def __init__(self, number: int, fold: PartitionFold, next_offset: int, *, fed: bool) -> None:
        self.number = number
        self.fold = fold
        self.batches = BatchFold(fold)
        self.next_offset = next_offset
        self.read = False
        """Whether the fold has seen a record, so that it knows where it stands."""
        self.committed: Commit | None = None
        self.emitting = False
        """The fold is ahead of what was published: a cancelled shell must not commit from it."""
        self.marked_ms: int | None = None
        """The last marker that we wrote."""
        self.fed = fed
        """The feed writes markers here: then only it knows what time it is (a replay's is not
        ours)."""

        self._counted: Counter[str] = Counter()

    def count(self) -> None:
        """Bring the metrics up to the fold's counters."""
        for outcome in OUTCOMES:
            news = self.fold.counters[outcome] - self._counted[outcome]
            if news:
                telemetry.TICKS.labels(outcome).inc(news)
        for event in EVENTS:
            telemetry.FOLD_EVENTS.labels(event).inc(
                self.fold.counters[event] - self._counted[event]
            )
        self._counted = self.fold.counters.copy()
        if self.fold.watermark is not None:
            telemetry.WATERMARK.labels(str(self.number)).set(self.fold.watermark)

    def position(self, listed: str) -> Commit:
        fold = self.fold
        metadata = Metadata(fold.watermark_at_low_water, self.fed, fold.gap, fold.lost, listed)
        return Commit(fold.low_water, msgspec.json.encode(metadata).decode())


class BarsService:
    """The bars stage: the owned partitions of the ticks topic, folded into the bars topic."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        *,
        backpressure: Backpressure | None = None,
        on_bar: Callable[[Bar], None] | None = None,
        on_late: Callable[[str], None] | None = None,
        clock: Callable[[], int] = wall_ms,
        monotonic: Callable[[], float] = time.monotonic,
        commit_every_s: float = COMMIT_EVERY_S,
    ) -> None:
        """`clock` is wall time in ms, for markers alone: bars know no clock."""
        self._settings = settings
        self._broker = broker
        self._marks = _marks(settings, broker)
        self._backpressure = backpressure
        self._on_bar = on_bar
        self._on_late = on_late
        self._clock = clock
        self._monotonic = monotonic
        self._commit_every_s = commit_every_s
        self._interval_ms = INTERVAL_MS[settings.bars.interval]
        self._group = group_name(settings.kafka, "bars", settings.bars.interval)
        self._partitions: dict[int, _Partition] = {}
        listed = settings.symbols
        self._listed = digest(listed if listed == "all" else sorted(listed), size=4)
        self._partition_count = 0
        self._committed_at = monotonic()
        self.ready = asyncio.Event()
        """Set while an assignment is taken and its partitions are being read."""

    async def run(self) -> None:
        """Until cancelled. Raises BrokerError where the broker or the membership is lost."""
        topics = self._broker.topics
        self._partition_count = await self._broker.partitions(topics.ticks)
        self._publisher = self._broker.publisher()
        self._subscription = self._broker.subscription(topics.ticks, group=self._group)
        self._letters = DeadLetters(
            self._publisher,
            max_per_s=self._settings.bars.max_rejected_per_s,
            monotonic=self._monotonic,
        )
        try:
            await self._publisher.start()
            await self._subscription.start()
            while True:
                await self._turn()
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError, BrokerError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._commit()
            raise
        finally:
            await asyncio.gather(self._subscription.stop(), self._publisher.close())

    @property
    def waits_for(self) -> str | None:
        """Nothing: whatever is read is folded at once."""
        return None

    def positions(self) -> dict[int, int]:
        """The next offset to be folded, by owned partition."""
        return {n: p.next_offset for n, p in self._partitions.items()}

    async def flush(self) -> None:
        """Until what was sent is acknowledged."""
        await self._publisher.flush()

    def trouble(self) -> str | None:
        """For /readyz."""
        if not self.ready.is_set() or not self._subscription.assigned:
            return "no assignment yet"
        return None

    async def _turn(self) -> None:
        assignment = self._subscription.take_assignment()
        if assignment is not None:
            await self._assign(assignment)
        batches = await self._subscription.poll(max_wait_ms=POLL_MS, max_records=BATCH)
        for number, records in batches.items():
            await self._fold(self._partitions[number], records)
        if self._marks:
            await self._mark(set(self._partitions) - set(batches))
        if self._monotonic() - self._committed_at >= self._commit_every_s:
            await self._commit()

    async def _assign(self, assignment: frozenset[int]) -> None:
        """Begin where the group's commits say. A partition that comes back keeps its fold: it is a
        pure function of the records, whoever else read them meanwhile."""
        self.ready.clear()
        log.info("bars_assigned", partitions=sorted(assignment))
        if max(assignment, default=0) >= self._partition_count:
            raise BrokerError(
                f"{self._broker.topics.ticks} has more partitions now than the "
                f"{self._partition_count} that it had at the start, so symbols have other homes: "
                "start again (docs/what-happens-when.md says what moves)"
            )
        telemetry.ASSIGNMENTS.labels("bars").inc()
        telemetry.forget_partitions("bars", set(self._partitions) - assignment)
        self._partitions = {n: p for n, p in self._partitions.items() if n in assignment}
        new = sorted(assignment - set(self._partitions))
        ticks = self._broker.topics.ticks
        commits = await self._broker.committed(self._group, ticks, new)
        begins = await self._broker.begin_offsets(ticks, new)
        ends = await self._broker.end_offsets(ticks, new)
        for number in new:
            start = start_of(number, commits.get(number), begins[number], ends[number])
            self._partitions[number] = await self._opened(number, start)
            if not self._subscription.owned:
                return
        for number, partition in self._partitions.items():
            partition.marked_ms = None
            self._subscription.seek(number, partition.next_offset)
        self.ready.set()

    async def _opened(self, number: int, start: Start) -> _Partition:
        settings, metadata = self._settings, start.metadata
        by_rule = settings.kafka.partitioner != "any"
        symbols = None if settings.symbols == "all" else frozenset(settings.symbols)
        mine = symbols
        if symbols is not None and by_rule:
            mine = frozenset(s for s in symbols if self._partition_of(s) == number)
        last = await last_published(
            self._broker,
            number,
            watermark=start.reached,
            interval_ms=self._interval_ms,
            expected=mine if by_rule else None,
            sessions=bool(settings.bars.symbol_calendars) or settings.bars.calendar != ALWAYS,
            # The log may be ahead of a clock that is wrong, or of any clock in a simulated market.
            until=max(self._clock(), start.reached or 0) + DAY_MS,
        )
        fold = PartitionFold(
            config=BarsConfig.of(settings.bars),
            partition=number,
            partition_of=self._partition_of if by_rule else None,
            symbols=symbols,
            restored=Restored(
                metadata.w,
                last,
                metadata.gap,
                metadata.lost,
                relisted=metadata.symbols not in (None, self._listed),
            ),
        )
        return _Partition(number, fold, start.offset, fed=metadata.fed)

    def _partition_of(self, symbol: str) -> int:
        return partition_of(symbol, self._partition_count, self._settings.kafka.partitioner)

    async def _fold(self, partition: _Partition, records: list[Record]) -> None:
        if self._marks and not partition.fed:
            partition.fed = any(r.key is None and _is_from_feed(r) for r in records)
        partition.emitting = True
        for record, outputs in partition.batches.apply(records):
            if not await self._emit(partition, record, outputs):
                del self._partitions[partition.number]
                telemetry.forget_partitions("bars", {partition.number})
                return
        partition.next_offset = records[-1].offset + 1
        partition.read = True
        partition.emitting = False
        await asyncio.sleep(0)
        if self._backpressure is not None:
            self._backpressure.consumed("ticks", sum(len(r.value) for r in records))
        partition.count()
        if partition.fold.watermark is not None:
            behind_ms = max(0, records[-1].timestamp - partition.fold.watermark)
            telemetry.EVENT_LAG.labels("bars", str(partition.number)).set(behind_ms / 1000)

    async def _emit(self, partition: _Partition, record: Record, outputs: list[Output]) -> bool:
        """Publish; False: the partition is no longer ours, so nothing was."""
        if not self._subscription.owned:
            return False
        topics = self._broker.topics
        for output in outputs:
            if isinstance(output, BarOut):
                await self._publish(partition.number, output.bar)
            elif isinstance(output, LateOut):
                await self._letters.send(topics.late, record, "late")
                if self._on_late is not None:
                    self._on_late(output.symbol)
            else:
                await self._letters.send(topics.rejected, record, output.reason, output.detail)
                telemetry.REJECTED.labels("bars", output.reason).inc()
        return True

    async def _publish(self, number: int, bar: Bar) -> None:
        value, headers = encode(bar, self._settings.publish.wire)
        if self._backpressure is not None:
            self._backpressure.produced("bars", 1)
        await self._publisher.send(
            self._broker.topics.bars,
            value,
            partition=number,
            key=bar.symbol.encode(),
            timestamp=bar.open_time,
            headers=headers,
        )
        telemetry.BARS.labels("synthetic" if bar.synthetic else "traded").inc()
        log.debug("bar_closed", symbol=bar.symbol, open_time=bar.open_time, trades=bar.trades)
        if bar.flat_run * self._interval_ms == DAY_MS:
            log.info("symbol_silent", symbol=bar.symbol, since=bar.close_time - DAY_MS)
        if self._on_bar is not None:
            self._on_bar(bar)

    async def _mark(self, quiet: set[int]) -> None:
        """Where nobody else does, say in the ticks partition itself that a bar is over: once our
        fetch has reached its end and the wall clock has passed close and grace. We act on the
        marker only when we read it back, so that bars stay a function of the log."""
        now = self._clock()
        due = [
            p
            for p in (self._partitions[n] for n in sorted(quiet))
            if not p.fed
            and p.fold.next_close_ms is not None
            and p.fold.next_close_ms <= now
            # One that was written before the clock was set back says nothing.
            and (p.marked_ms is None or not p.fold.next_close_ms <= p.marked_ms <= now)
        ]
        if not due or not self._subscription.owned:
            return
        ticks = self._broker.topics.ticks
        ends = await self._broker.end_offsets(ticks, [p.number for p in due])
        for partition in due:
            close_ms = partition.fold.next_close_ms
            position = await self._subscription.position(partition.number)
            if position is None or not self._subscription.owned:
                # A rebalance came in between; the next turn takes the new assignment.
                return
            if close_ms is None or position < ends[partition.number]:
                continue
            # After a long silence one marker closes all intervals that are over.
            marker = Marker(marker_time=now - (now - close_ms) % self._interval_ms)
            value, headers = encode(marker, self._settings.publish.wire)
            await self._publisher.send(
                ticks,
                value,
                partition=partition.number,
                timestamp=now,
                headers=(*headers, OWNERS_MARKER),
            )
            partition.marked_ms = marker.marker_time

    async def _commit(self) -> None:
        """What is committed was acknowledged before: first the bars, then the position."""
        self._committed_at = self._monotonic()
        positions = {
            n: p.position(self._listed)
            for n, p in self._partitions.items()
            if p.read and not p.emitting
        }
        changed = {n: c for n, c in positions.items() if c != self._partitions[n].committed}
        if not changed or not self._subscription.owned:
            return
        await self._publisher.flush()
        if await self._subscription.commit(changed):
            for number, commit in changed.items():
                self._partitions[number].committed = commit


def _marks(settings: Settings, broker: Broker) -> bool:
    """Whether this stage writes the markers: by default where others write the ticks."""
    if settings.bars.markers is not None:
        return settings.bars.markers == "owner"
    return (settings.feed.kind or ("simulated" if broker.embedded else "kafka")) == "kafka"


def _is_from_feed(record: Record) -> bool:
    """A marker without the header of ours."""
    is_marker = header(record.headers, SCHEMA_HEADER) == SCHEMAS[Marker].encode()
    return is_marker and OWNERS_MARKER not in record.headers
