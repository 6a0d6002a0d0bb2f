"""The forecast stage over a broker in memory and a real store: whatever dies, nothing is lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from kronos_stream.bars.calendar import calendar_of
from kronos_stream.context.contexts import Contexts
from kronos_stream.context.store import ContextStore
from kronos_stream.context.window import Window
from kronos_stream.engine.spec import bars_needed, resolve_spec
from kronos_stream.errors import SettingsError
from kronos_stream.feeds.pacing import Backpressure
from kronos_stream.forecasts.record import check_message_size
from kronos_stream.forecasts.service import ForecastService
from kronos_stream.settings import (
    ContextSettings,
    ForecastSettings,
    PublishSettings,
    RedisSettings,
    Settings,
)
from kronos_stream.wire.codecs import decode, encode
from kronos_stream.wire.messages import Bar, Forecast, Skipped
from kronos_stream.wire.topics import Commit
from tests.fakes import Crash, FakeBroker, FakeCluster, steps_until
from tests.samples import bar

from .fake_engine import HELLO, FakeEngine

pytestmark = pytest.mark.integration

GROUP = "forecasts-test"
SYMBOLS = ("AAA", "BBB")
LOOKBACK, LIVE = 4, 7
SETTINGS = Settings(
    symbols=SYMBOLS,
    forecast=ForecastSettings(lookback=LOOKBACK, horizon=2, paths=3, gate_ms=0, shed="off"),
    context=ContextSettings(slack=8, max_missing_bars=2),
)
SPEC = resolve_spec(SETTINGS, 64, "24/7")


def settings_with(**changes: Any) -> Settings:
    """SETTINGS with others under `forecast`."""
    return msgspec.structs.replace(
        SETTINGS, forecast=msgspec.structs.replace(SETTINGS.forecast, **changes)
    )


def topic_of(cluster: FakeCluster, *, history: int = LOOKBACK, live: int = LIVE) -> list[Bar]:
    """Writes history and live bars of both symbols, each to a partition of its own."""
    topic = FakeBroker(cluster).topics.bars
    written = []
    for partition, symbol in enumerate(SYMBOLS):
        previous = None
        for i in range(history + live):
            if i == history:
                previous = None
            one = bar(
                symbol,
                i,
                close=100.0 + i + partition,
                history=i < history,
                prev_open_time=previous,
            )
            previous = one.open_time
            append(cluster, topic, one, partition)
            written.append(one)
    return written


def append(cluster: FakeCluster, topic: str, one: Bar, partition: int = 0) -> None:
    value, headers = encode(one)
    cluster.append(topic, value, partition=partition, timestamp=one.open_time, headers=headers)


class MortalContexts(Contexts):
    """The process may also die before and after each append."""

    async def append(self, bar: Bar, partition: int, offset: int) -> Window | None:
        self._broker.step("append")  # type: ignore[attr-defined]
        window = await super().append(bar, partition, offset)
        self._broker.step("append_done")  # type: ignore[attr-defined]
        return window


@contextlib.asynccontextmanager
async def service_of(
    broker: FakeBroker,
    url: str,
    prefix: str,
    *,
    settings: Settings = SETTINGS,
    engine: Any = None,
    **options: Any,
) -> AsyncIterator[ForecastService]:
    """A service that is not running yet, with a store of its own."""
    keep = LOOKBACK + 1 + settings.context.slack
    store = ContextStore(RedisSettings(prefix=prefix), url=url, interval="5m", scope="x", keep=keep)
    spec = resolve_spec(settings, 64, "24/7")
    try:
        yield ForecastService(
            settings,
            broker,  # type: ignore[arg-type]
            MortalContexts(store, broker, want=bars_needed(spec), keep=keep),  # type: ignore[arg-type]
            engine or FakeEngine(spec, broker.step),
            HELLO,
            group=GROUP,
            spec_of=lambda symbol: spec,
            **{
                "calendar_of": lambda symbol: calendar_of("24/7", 300_000),
                "shed": settings.forecast.shed == "on",
                "commit_every_s": 0.0,
                **options,
            },
        )
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def running(service: ForecastService) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(service.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def from_the_beginning(cluster: FakeCluster) -> None:
    topic = FakeBroker(cluster).topics.bars
    for partition in range(cluster.partitions):
        cluster.commits[GROUP, topic, partition] = Commit(0)


def forecasts(cluster: FakeCluster) -> list[Forecast]:
    records = cluster.records(FakeBroker(cluster).topics.forecasts)
    return [decode(r.value, r.headers, Forecast) for r in records]


def skipped(cluster: FakeCluster) -> list[Skipped]:
    records = cluster.records(FakeBroker(cluster).topics.skipped)
    return [decode(r.value, r.headers, Skipped) for r in records]


async def until(condition: Callable[[], bool], *tasks: asyncio.Task[None]) -> None:
    """Waits for a condition, or for a task that ends (and then raises what it raised)."""
    while not condition():
        for task in tasks:
            if task.done():
                task.result()
        await asyncio.sleep(0.001)


def all_due(cluster: FakeCluster) -> Callable[[], bool]:
    return lambda: len({f.id for f in forecasts(cluster)}) == LIVE * len(SYMBOLS)


def assert_right(cluster: FakeCluster, written: list[Bar]) -> None:
    """Every due forecast is there; each saw exactly the bars that it must; repeats are equal."""
    first: dict[str, Forecast] = {}
    for made in forecasts(cluster):
        known = first.setdefault(made.id, made)
        assert (known.quantiles, known.context) == (made.quantiles, made.context)
    due = {(b.symbol, b.open_time) for b in written if not b.history}
    assert {(f.symbol, f.open_time) for f in first.values()} == due
    for made in first.values():
        seen = [b for b in written if b.symbol == made.symbol and b.open_time <= made.open_time]
        assert made.context.digest == Window.from_bars(seen[-LOOKBACK - 1 :]).digest()


async def test_every_due_bar_is_forecast_and_committed(redis_url: str, topic_prefix: str) -> None:
    cluster = FakeCluster(partitions=2)
    written = topic_of(cluster)
    from_the_beginning(cluster)
    engine = FakeEngine(SPEC)
    async with (
        service_of(FakeBroker(cluster), redis_url, topic_prefix, engine=engine) as service,
        running(service) as task,
    ):
        topic = FakeBroker(cluster).topics.bars
        ends = [Commit(LOOKBACK + LIVE)] * 2
        await until(lambda: [cluster.commits[GROUP, topic, p] for p in (0, 1)] == ends, task)
    assert_right(cluster, written)
    made = forecasts(cluster)[0]
    assert made.context.history == LOOKBACK
    assert made.expires_at == made.step_open_times[0] + 300_000
    assert made.timing.bar_read <= made.timing.published


async def test_dies_at_every_step_and_loses_nothing(redis_url: str, topic_prefix: str) -> None:
    crashes = 0
    for crash_at in range(0, 400):
        cluster = FakeCluster(partitions=2)
        written = topic_of(cluster)
        from_the_beginning(cluster)
        prefix = f"{topic_prefix}{crash_at}"
        broker = FakeBroker(cluster, fault=steps_until(crash_at))
        died = False
        async with service_of(broker, redis_url, prefix) as service:
            task = asyncio.create_task(service.run())
            try:
                await until(all_due(cluster), task)
            except BaseExceptionGroup as group:
                if group.subgroup(Crash) is None:
                    raise
                died = True
            except Crash:
                died = True
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        crashes += died
        async with (
            service_of(FakeBroker(cluster), redis_url, prefix) as service,
            running(service) as task,
        ):
            await until(all_due(cluster), task)
        assert_right(cluster, written)
        if not died:
            break
    assert crashes > 10


async def test_an_emptied_store_changes_nothing(redis_url: str, topic_prefix: str) -> None:
    cluster = FakeCluster(partitions=2)
    written = topic_of(cluster)
    topic = FakeBroker(cluster).topics.bars
    # The group stands before the last three bars, and the store holds nothing.
    for partition in (0, 1):
        cluster.commits[GROUP, topic, partition] = Commit(LOOKBACK + LIVE - 3)
    async with (
        service_of(FakeBroker(cluster), redis_url, topic_prefix) as service,
        running(service) as task,
    ):
        await until(lambda: len(forecasts(cluster)) == 6, task)
    for made in forecasts(cluster):
        seen = [b for b in written if b.symbol == made.symbol and b.open_time <= made.open_time]
        assert made.context.digest == Window.from_bars(seen[-LOOKBACK - 1 :]).digest()


async def test_a_new_group_begins_at_the_end_and_says_so(redis_url: str, topic_prefix: str) -> None:
    cluster = FakeCluster(partitions=2)
    topic_of(cluster)
    broker = FakeBroker(cluster)
    async with (
        service_of(broker, redis_url, topic_prefix) as service,
        running(service) as task,
    ):
        await until(service.ready.is_set, task)
        assert cluster.commits[GROUP, broker.topics.bars, 0] == Commit(LOOKBACK + LIVE)
        last = bar("AAA", LOOKBACK + LIVE - 1)
        new = bar("AAA", LOOKBACK + LIVE, prev_open_time=last.open_time)
        append(cluster, broker.topics.bars, new)
        await until(lambda: len(forecasts(cluster)) == 1, task)
    assert forecasts(cluster)[0].open_time == new.open_time


async def test_overload_sheds_forecasts_never_bars(redis_url: str, topic_prefix: str) -> None:
    """A slow engine: the newest bar of each symbol is forecast, the others have a record each."""
    cluster = FakeCluster(partitions=2)
    topic_of(cluster)
    from_the_beginning(cluster)
    settings = settings_with(shed="on")
    release = asyncio.Event()

    class Slow(FakeEngine):
        async def forecast(self, requests: Any) -> Any:
            await release.wait()
            return await super().forecast(requests)

    backpressure = Backpressure({"bars": 1})
    total = len(SYMBOLS) * (LOOKBACK + LIVE)
    backpressure.produced("bars", total)
    async with (
        service_of(
            FakeBroker(cluster),
            redis_url,
            topic_prefix,
            settings=settings,
            engine=Slow(SPEC),
            backpressure=backpressure,
        ) as service,
        running(service) as task,
    ):
        await until(lambda: len(service._gate) >= len(SYMBOLS) * (LIVE - 1) - 1, task)
        release.set()
        await until(lambda: backpressure.unfinished("bars") == 0, task)
    told = {(f.symbol, f.open_time) for f in forecasts(cluster)}
    told |= {(s.symbol, s.open_time) for s in skipped(cluster)}
    assert len(told) == LIVE * len(SYMBOLS)
    assert {s.reason for s in skipped(cluster)} == {"stale"}
    newest = max(f.open_time for f in forecasts(cluster))
    assert {(s, newest) for s in SYMBOLS} <= {(f.symbol, f.open_time) for f in forecasts(cluster)}


async def test_malformed_bars_are_rejected_and_block_nothing(
    redis_url: str, topic_prefix: str
) -> None:
    cluster = FakeCluster(partitions=1)
    broker = FakeBroker(cluster)
    for junk in (b"", b"{", b"[]", b'{"symbol":"AAA"}', b"\xff" * 100_000):
        cluster.append(broker.topics.bars, junk)
    topic_of_one = [bar("AAA", i, prev_open_time=None) for i in range(1)]
    append(cluster, broker.topics.bars, topic_of_one[0])
    from_the_beginning(cluster)
    async with (
        service_of(broker, redis_url, topic_prefix) as service,
        running(service) as task,
    ):
        await until(lambda: cluster.commits[GROUP, broker.topics.bars, 0] == Commit(6), task)
    letters = cluster.records(broker.topics.rejected)
    assert [dict(r.headers)["reason"] for r in letters] == [b"malformed_bar"] * 5
    assert len(letters[-1].value) == 65_536


async def test_a_bars_topic_made_anew_is_read_from_its_beginning(
    redis_url: str, topic_prefix: str
) -> None:
    cluster = FakeCluster()
    broker = FakeBroker(cluster)
    for partition in range(cluster.partitions):
        cluster.commits[GROUP, broker.topics.bars, partition] = Commit(1_000)
    topic_of(cluster)
    async with service_of(broker, redis_url, topic_prefix) as service, running(service) as task:
        await until(lambda: len(forecasts(cluster)) == LIVE * len(SYMBOLS), task)


async def test_a_bar_of_no_use_is_rejected_and_the_next_ones_are_forecast(
    redis_url: str, topic_prefix: str
) -> None:
    """Each of these had ended the stage, or silenced its symbol."""
    cluster = FakeCluster()
    broker = FakeBroker(cluster)
    from_the_beginning(cluster)
    last = topic_of(cluster, live=1)[LOOKBACK]
    changes: tuple[dict[str, Any], ...] = (
        *({"revision": -1}, {"revision": 2**40}, {"open_time": 2**62}, {"close": 0.0}),
        # In the year 2072.
        {"open_time": last.open_time + 5_000_000 * 300_000},
    )
    for change in changes:
        append(cluster, broker.topics.bars, msgspec.structs.replace(last, **change))
    after = bar("AAA", LOOKBACK + 1, close=105.0, prev_open_time=last.open_time)
    append(cluster, broker.topics.bars, after)
    async with service_of(broker, redis_url, topic_prefix) as service, running(service) as task:
        await until(lambda: len(forecasts(cluster)) == 3, task)
    assert len(cluster.records(broker.topics.rejected)) == len(changes)
    assert after.open_time in {f.open_time for f in forecasts(cluster) if f.symbol == "AAA"}


async def test_too_many_missing_bars_are_a_skip(redis_url: str, topic_prefix: str) -> None:
    cluster = FakeCluster(partitions=1)
    broker = FakeBroker(cluster)
    previous = None
    for index in (0, 1, 2, 3, 7):
        one = bar("AAA", index, prev_open_time=previous)
        previous = one.open_time
        append(cluster, broker.topics.bars, one)
    from_the_beginning(cluster)
    async with (
        service_of(broker, redis_url, topic_prefix) as service,
        running(service) as task,
    ):
        await until(lambda: len(skipped(cluster)) == 1, task)
    assert skipped(cluster)[0].reason == "too_many_missing_bars"
    assert forecasts(cluster) == []


async def test_history_warms_the_engine_before_the_first_close(
    redis_url: str, topic_prefix: str
) -> None:
    cluster = FakeCluster(partitions=2)
    topic_of(cluster, live=0)
    from_the_beginning(cluster)
    engine = FakeEngine(SPEC)
    async with (
        service_of(FakeBroker(cluster), redis_url, topic_prefix, engine=engine) as service,
        running(service) as task,
    ):
        await until(lambda: sorted(engine.prepared) == list(SYMBOLS), task)


def test_records_over_the_message_limit_are_refused_at_start() -> None:
    settings = msgspec.structs.replace(SETTINGS, publish=PublishSettings(paths=True))
    check_message_size(settings, SPEC)
    big = msgspec.structs.replace(SPEC, paths=1_000, horizon=48)
    with pytest.raises(SettingsError, match=r"publish\.paths"):
        check_message_size(settings, big)
