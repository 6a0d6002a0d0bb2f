"""Bars to forecasts, the shell: append, forecast, publish, commit.

That order is the guarantee. The append is guarded, ids are deterministic, and the position that is
committed is the lowest unfinished bar: dying anywhere repeats work, and loses none.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from .. import telemetry
from ..bars.calendar import Calendar
from ..bars.dead_letters import DeadLetters
from ..clock import wall_ms
from ..context.contexts import Contexts
from ..context.patience import Patience
from ..context.window import Window
from ..engine.messages import EngineHello, EngineReply
from ..engine.spec import bars_needed
from ..errors import BrokerError, CalendarEndError
from ..feeds.pacing import Backpressure
from ..kafka import Broker, Commit, Publisher, Record
from ..settings import Settings
from ..summary import utc
from ..wire.bars import bar_of
from ..wire.ids import forecast_id
from ..wire.intervals import INTERVAL_MS
from ..wire.messages import Bar, Forecast, ForecastSpec, Skipped
from .engine import Engine
from .gate import Gate
from .outbox import Item, Outbox
from .owned import Owned, start_of
from .record import due_forecast, request_of

log = structlog.get_logger()

POLL_MS: Final = 100
COMMIT_EVERY_S: Final = 1.0
STOP_TIMEOUT_S: Final = 1.5


class ForecastService:
    """The forecast stage over this member's partitions of the bars topic."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        contexts: Contexts,
        engine: Engine,
        hello: EngineHello,
        *,
        group: str,
        spec_of: Callable[[str], ForecastSpec],
        calendar_of: Callable[[str], Calendar],
        shed: bool,
        backpressure: Backpressure | None = None,
        on_forecast: Callable[[Forecast, float], None] | None = None,
        on_skipped: Callable[[Skipped], None] | None = None,
        clock: Callable[[], int] = wall_ms,
        monotonic: Callable[[], float] = time.monotonic,
        commit_every_s: float = COMMIT_EVERY_S,
    ) -> None:
        """`clock` is wall time in ms, for the timing in records alone. `on_forecast` gets each
        published record and its latency in ms."""
        self._settings = settings
        self._broker = broker
        self._contexts = contexts
        self._engine = engine
        self._hello = hello
        self._spec_of, self._calendar_of = spec_of, calendar_of
        self._group = group
        self._shed = shed
        self._backpressure = backpressure
        self._on_forecast, self._on_skipped = on_forecast, on_skipped
        self._clock, self._monotonic = clock, monotonic
        self._commit_every_s = commit_every_s
        self._reach_ms = settings.context.slack * INTERVAL_MS[settings.bars.interval]
        self._gate: Gate[Item] = Gate(
            gate_ms=settings.forecast.gate_ms,
            max_batch=settings.model.max_batch,
            max_batch_ms=settings.forecast.max_batch_ms,
            monotonic=monotonic,
        )
        self._partitions: dict[int, Owned] = {}
        self._newest: dict[str, int] = {}
        """Open time of the newest live bar read of each symbol."""
        self._home: dict[str, int] = {}
        """Partition of each symbol that has closed a bar."""
        self._to_warm: dict[str, tuple[Bar, int]] = {}
        """Last history bar, with its offset, of the symbols that have closed none yet."""
        self._said: set[str] = set()
        """Of which symbols it was logged why they are not forecast."""
        self._patiently = Patience()
        self._arrived = asyncio.Event()
        self._committed_at = monotonic()
        self.ready = asyncio.Event()
        """Set while an assignment is taken and its partitions are being read."""

    async def run(self) -> None:
        """Until cancelled. Raises BrokerError where the broker or the membership is lost, and
        EngineError where the engine cannot be brought back."""
        topics = self._broker.topics
        self._publisher: Publisher = self._broker.publisher()
        self._outbox = Outbox(
            self._settings,
            self._broker,
            self._publisher,
            self._hello,
            clock=self._clock,
            on_forecast=self._on_forecast,
            on_skipped=self._on_skipped,
        )
        self._subscription = self._broker.subscription(topics.bars, group=self._group)
        self._letters = DeadLetters(
            self._publisher,
            max_per_s=self._settings.bars.max_rejected_per_s,
            monotonic=self._monotonic,
        )
        try:
            await self._publisher.start()
            await self._subscription.start()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read())
                tasks.create_task(self._make())
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError, BrokerError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._commit()
            raise
        finally:
            await self._subscription.stop()
            await self._publisher.close()

    @property
    def waits_for(self) -> str | None:
        """Why the position may stand still."""
        if self._patiently.away is not None:
            return f"the store: {self._patiently.away}"
        if self._contexts.reading is not None:
            return f"the context of {self._contexts.reading}, which is read back"
        if any(p.unfinished for p in self._partitions.values()):
            return "forecasts under way"
        return None

    def positions(self) -> dict[int, int]:
        """The next offset to be read, by owned partition."""
        return {n: p.next_offset for n, p in self._partitions.items()}

    async def flush(self) -> None:
        """Until what was sent is acknowledged."""
        await self._publisher.flush()

    def trouble(self) -> str | None:
        """For /readyz."""
        if not self.ready.is_set() or not self._subscription.assigned:
            return "no assignment yet"
        if self._patiently.away is not None:
            return f"the store does not answer: {self._patiently.away}"
        return None

    async def _read(self) -> None:
        """Appends every bar, in order, whatever becomes of its forecast."""
        while True:
            assignment = self._subscription.take_assignment()
            if assignment is not None:
                await self._assign(assignment)
            self._hold_back()
            batches = await self._subscription.poll(max_wait_ms=POLL_MS)
            for number, records in batches.items():
                await self._take(number, records)
            if not batches and self._to_warm:
                await self._warm()
            if self._monotonic() - self._committed_at >= self._commit_every_s:
                await self._commit()

    async def _assign(self, assignment: frozenset[int]) -> None:
        self.ready.clear()
        log.info("forecasts_assigned", partitions=sorted(assignment))
        telemetry.ASSIGNMENTS.labels("forecast").inc()
        bars = self._broker.topics.bars
        telemetry.forget_partitions("forecast", set(self._partitions) - assignment)
        self._partitions = {n: p for n, p in self._partitions.items() if n in assignment}
        self._measure()
        self._home = {s: n for s, n in self._home.items() if n in assignment}
        new = sorted(assignment - set(self._partitions))
        commits = await self._broker.committed(self._group, bars, new)
        begins = await self._broker.begin_offsets(bars, new)
        ends = await self._broker.end_offsets(bars, new)
        first: dict[int, Commit] = {}
        for number in new:
            commit = commits.get(number)
            start = begins[number]
            if not self._broker.embedded:
                start = start_of(number, commit, begins[number], ends[number])
                if commit is None:
                    # Said at once: a restart before its first forecast must not move the beginning.
                    first[number] = Commit(start)
            self._partitions[number] = Owned(start, self._reach_ms)
        if first:
            await self._subscription.commit(first)
        for number, partition in self._partitions.items():
            self._subscription.seek(number, partition.next_offset)
        self.ready.set()

    def _hold_back(self) -> None:
        """Back-pressure: a partition is read no further beyond its oldest unfinished bar than the
        store keeps bars, so that it still holds every window that a restart would need."""
        for number, partition in self._partitions.items():
            if partition.full:
                self._subscription.pause([number])
            elif 2 * partition.behind_ms() < partition.reach_ms:
                self._subscription.resume([number])

    async def _take(self, number: int, records: list[Record]) -> None:
        partition = self._partitions.get(number)
        if partition is None:
            return
        history: list[tuple[Bar, int]] = []
        for record in records:
            if partition.full:
                self._subscription.seek(number, partition.next_offset)
                self._subscription.pause([number])
                break
            read_ms = self._clock()
            bar = await self._decoded(record)
            if bar is not None and bar.history:
                history.append((bar, record.offset))
            elif bar is not None:
                await self._keep_history(history)
                window = await self._patiently(self._contexts.append, bar, number, record.offset)
                await self._route(bar, window, record, read_ms)
            partition.next_offset = record.offset + 1
            if record.offset not in partition.unfinished:
                self._finished_one()
        await self._keep_history(history)

    async def _decoded(self, record: Record) -> Bar | None:
        """The record's bar; None where it is of no use here, or of no use to anybody."""
        try:
            until = self._partitions[record.partition].until(self._clock())
            bar = bar_of(record, self._settings.bars.interval, until)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            rejected = self._broker.topics.rejected
            await self._letters.send(rejected, record, "malformed_bar", str(error))
            telemetry.REJECTED.labels("forecasts", "malformed_bar").inc()
            return None
        if self._settings.symbols == "all" or bar.symbol in self._settings.symbols:
            return bar
        self._say_once(bar.symbol, "unlisted", partition=record.partition)
        return None

    async def _keep_history(self, history: list[tuple[Bar, int]]) -> None:
        if history:
            await self._patiently(self._contexts.extend, list(history))
            self._to_warm.update((bar.symbol, (bar, offset)) for bar, offset in history)
            history.clear()

    async def _route(self, bar: Bar, window: Window | None, record: Record, read_ms: int) -> None:
        if bar.revision or window is None:
            return
        self._home[bar.symbol] = record.partition
        self._newest[bar.symbol] = max(bar.open_time, self._newest.get(bar.symbol, 0))
        self._to_warm.pop(bar.symbol, None)
        partition = self._partitions[record.partition]
        partition.newest = max(partition.newest, bar.open_time)
        spec = self._spec_of(bar.symbol)
        revision = self._hello.model_revision
        try:
            due = due_forecast(window, spec, self._calendar_of(bar.symbol), revision)
        except CalendarEndError as error:
            identity = forecast_id(bar.symbol, bar.interval, bar.open_time, revision, spec)
            await self._outbox.skip(identity, bar, "calendar_ends", str(error))
            return
        if due is None:
            needed = bars_needed(spec)
            self._say_once(bar.symbol, "lookback_incomplete", bars=len(window), needed=needed)
        elif due.missing > (most := self._settings.context.max_missing_bars):
            detail = f"{due.missing} missing, context.max_missing_bars is {most}"
            await self._outbox.skip(due.id, bar, "too_many_missing_bars", detail)
        else:
            partition.unfinished[record.offset] = bar.open_time
            self._measure(record.partition)
            self._gate.add(bar.symbol, Item(due, bar, record, read_ms, partition))
            self._arrived.set()

    def _say_once(self, symbol: str, event: str, **fields: int) -> None:
        if symbol not in self._said:
            self._said.add(symbol)
            log.info(event, symbol=symbol, **fields)

    async def _warm(self) -> None:
        """Between history and the first close: prepare that close's prefix."""
        requests = []
        for symbol, (bar, offset) in self._to_warm.items():
            window = await self._patiently(self._contexts.window, bar, offset)
            spec = self._spec_of(symbol)
            if window is not None and len(window) >= spec.lookback:
                with contextlib.suppress(CalendarEndError):
                    requests.append(request_of(window, spec, self._calendar_of(symbol), "", 0))
        self._to_warm.clear()
        if requests:
            await self._engine.prepare(requests)

    async def _make(self) -> None:
        """Forecasts what the gate lets through, batch by batch."""
        while True:
            if not self._subscription.owned:
                await asyncio.sleep(POLL_MS / 1000)  # What is made now could not be published.
                continue
            wait_s = self._gate.wait_s(max(1, len(self._home)))
            if wait_s is None or wait_s > 0:
                self._arrived.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._arrived.wait()
                continue
            batch = self._gate.take(newest_first=self._shed)
            batch = [item for item in batch if self._owns(item)]
            if self._shed:
                batch = await self._without_stale(batch)
            if batch:
                began = self._monotonic()
                replies = await self._engine.forecast([item.due.request for item in batch])
                self._gate.took(len(batch), 1000 * (self._monotonic() - began))
                await self._publish_all(batch, replies)

    async def _without_stale(self, batch: list[Item]) -> list[Item]:
        """Shed forecasts, never bars: a newer bar of the symbol has been read already."""
        fresh = []
        for item in batch:
            newest = self._newest[item.bar.symbol]
            if item.bar.open_time < newest:
                closed = newest + INTERVAL_MS[item.bar.interval]
                told = f"a newer bar closed at {utc(closed)}"
                await self._outbox.skip(item.due.id, item.bar, "stale", told)
                self._finish(item)
            else:
                fresh.append(item)
        return fresh

    async def _publish_all(self, batch: list[Item], replies: list[EngineReply]) -> None:
        """Sends every record of the batch, then waits for the acknowledgements together."""
        if not self._subscription.owned:
            # A rebalance: what stays ours is published once the new assignment is taken.
            self._gate.put_back([(item.bar.symbol, item) for item in batch])
            return
        sent = []
        for item, reply in zip(batch, replies, strict=True):
            if not self._owns(item):
                continue  # Given up, by a rebalance that is over already.
            if reply.refused is not None:
                await self._outbox.skip(item.due.id, item.bar, reply.refused, "")
                self._finish(item)
            else:
                sent.append((item, *await self._outbox.send(item, reply)))
        for item, forecast, acknowledged in sent:
            await acknowledged
            self._finish(item)
            self._outbox.count(forecast, self._clock())

    def _owns(self, item: Item) -> bool:
        """Whether it was read under this assignment of its partition."""
        return self._partitions.get(item.record.partition) is item.owned

    def _finish(self, item: Item) -> None:
        partition = self._partitions.get(item.record.partition)
        if partition is not None and partition.unfinished.pop(item.record.offset, None) is not None:
            self._measure(item.record.partition)
            self._finished_one()

    def _measure(self, *changed: int) -> None:
        for number in changed:
            behind_ms = self._partitions[number].behind_ms()
            telemetry.EVENT_LAG.labels("forecast", str(number)).set(behind_ms / 1000)
        telemetry.UNFINISHED.set(sum(len(p.unfinished) for p in self._partitions.values()))

    def _finished_one(self) -> None:
        if self._backpressure is not None:
            self._backpressure.consumed("bars", 1)

    async def _commit(self) -> None:
        """Everything below the position was acknowledged, or needs no forecast."""
        self._committed_at = self._monotonic()
        changed = {
            n: Commit(p.position())
            for n, p in self._partitions.items()
            if p.position() != p.committed
        }
        if not changed or not self._subscription.owned:
            return
        await self._publisher.flush()
        if await self._subscription.commit(changed):
            for number, commit in changed.items():
                if number in self._partitions:
                    self._partitions[number].committed = commit.offset
