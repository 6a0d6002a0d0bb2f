"""Contexts equal a pure function of the bars topic, whatever was lost or repeated on the way."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from kronos_stream.context.contexts import Contexts
from kronos_stream.context.store import KEPT_MS, ContextStore
from kronos_stream.context.window import Window
from kronos_stream.errors import StoreError
from kronos_stream.settings import RedisSettings
from kronos_stream.wire.codecs import encode
from kronos_stream.wire.messages import Bar
from tests.fakes import FakeBroker
from tests.samples import bar

pytestmark = pytest.mark.integration

WANT, KEEP, SLACK = 5, 14, 9


@pytest.fixture
async def store(redis_url: str, topic_prefix: str) -> AsyncIterator[ContextStore]:
    made = ContextStore(
        RedisSettings(prefix=topic_prefix), url=redis_url, interval="5m", scope="s", keep=KEEP
    )
    await made.start()
    yield made
    await made.close()


def expected(log: list[Bar], offset: int, want: int) -> list[Bar]:
    """The window of the record at `offset`, from the topic alone."""
    trigger = log[offset]
    reach = next(i for i, b in enumerate(log) if (b.open_time, b.revision) == key(trigger))
    chosen: dict[int, Bar] = {}
    for seen in log[: reach + 1]:
        if seen.open_time > trigger.open_time:
            continue
        held = chosen.get(seen.open_time)
        if held is None or (held.history and not seen.history) or seen.revision > held.revision:
            chosen[seen.open_time] = seen
    return [chosen[t] for t in sorted(chosen)][-want:]


def key(one: Bar) -> tuple[int, int]:
    return one.open_time, one.revision


def chain(length: int, history: int = 0) -> list[Bar]:
    """`history` history bars and then live ones, each with values of its own."""
    bars = []
    for i in range(length):
        first = i in (0, history)
        bars.append(
            bar(
                index=i,
                close=100.0 + i,
                history=i < history,
                prev_open_time=None if first else bars[-1].open_time,
            )
        )
    return bars


def broker_of(log: list[Bar]) -> FakeBroker:
    broker = FakeBroker()
    for one in log:
        value, headers = encode(one)
        broker.cluster.append(broker.topics.bars, value, timestamp=one.open_time, headers=headers)
    return broker


def same(window: Window | None, bars: list[Bar]) -> bool:
    assert window is not None
    other = Window.from_bars(bars)
    return window.digest() == other.digest() and bool((window.history == other.history).all())


@st.composite
def logs(draw: st.DrawFn) -> list[Bar]:
    """A bars topic: history, live bars, corrections, and records repeated later on."""
    log: list[Bar] = []
    for live in chain(24, history=draw(st.integers(0, 6))):
        log.append(live)
        earlier = [b for b in log[-4:] if not b.history]
        if earlier and draw(st.integers(0, 4)) == 0:
            revised = draw(st.sampled_from(earlier))
            newest = max(b.revision for b in log if b.open_time == revised.open_time)
            log.append(
                msgspec.structs.replace(
                    revised, revision=newest + 1, close=draw(st.floats(90, 200))
                )
            )
        if earlier and draw(st.integers(0, 5)) == 0:
            log.append(draw(st.sampled_from(earlier)))
    return log


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(log=logs(), data=st.data())
async def test_windows_are_a_function_of_the_topic(
    store: ContextStore, log: list[Bar], data: st.DataObject
) -> None:
    await store.clear("BTCUSDT")
    contexts = Contexts(store, broker_of(log), want=WANT, keep=KEEP)
    position = 0
    while position < len(log):
        what = data.draw(st.integers(0, 9))
        if what == 0:
            await store.clear("BTCUSDT")
        elif what == 1:
            # A crash: the committed position lies a few records back.
            position = max(0, position - data.draw(st.integers(0, 4)))
        trigger = log[position]
        if trigger.history:
            await contexts.extend([(trigger, position)])
        else:
            window = await contexts.append(trigger, 0, position)
            if trigger.revision:
                assert window is None
            else:
                assert same(window, expected(log, position, WANT))
        position += 1


async def test_statuses(store: ContextStore) -> None:
    first, second, third, fourth = chain(4)
    assert (await store.append(first, 0, want=3)).status == "applied"
    assert (await store.append(first, 0, want=3)).status == "duplicate"
    other = msgspec.structs.replace(first, close=1.0)
    assert (await store.append(other, 1, want=3)).status == "conflict"
    assert (await store.append(third, 2, want=3)).status == "hole"
    assert (await store.append(second, 1, want=3)).status == "applied"
    last = await store.append(fourth, 3, want=3)
    assert last.status == "applied"
    assert same(last.window, [second, third, fourth])


async def test_first_live_bar_follows_history_without_a_hole(store: ContextStore) -> None:
    bars = chain(4, history=3)
    await store.extend([(b, i) for i, b in enumerate(bars[:3])])
    appended = await store.append(bars[3], 3, want=4)
    assert appended.status == "applied"
    assert same(appended.window, bars)


async def test_a_bar_made_from_ticks_stands_against_history(store: ContextStore) -> None:
    live = chain(2)
    await store.append(live[0], 0, want=2)
    for place, index in ((1, 0), (2, 1)):
        clash = msgspec.structs.replace(bar(index=index, close=1.0), history=True)
        assert (await store.append(clash, place, want=2)).status == "duplicate"
    assert same((await store.append(live[1], 3, want=2)).window, live)


async def test_history_reaches_up_to_the_first_bar_made_from_ticks(store: ContextStore) -> None:
    """In whichever order they were read: bars made from ticks may lie apart in time."""
    log = [bar(index=i, close=1.0, history=True) for i in range(20)]
    before = log[:10]
    for i in (10, 13, 16):
        last = log[-1].open_time if len(log) > 20 else None
        log.append(bar(index=i, close=100.0 + i, prev_open_time=last))
    contexts = Contexts(store, broker_of(log), want=WANT, keep=KEEP)  # type: ignore[arg-type]
    await contexts.extend([(one, offset) for offset, one in enumerate(log[:20])])
    for offset, one in enumerate(log[20:], 20):
        seen = [*before, *log[20 : offset + 1]][-WANT:]
        assert same(await contexts.append(one, 0, offset), seen)
    await store.clear("BTCUSDT")
    assert same(await contexts.append(log[-1], 0, len(log) - 1), seen)


async def test_keeps_no_more_than_it_needs(store: ContextStore) -> None:
    bars = chain(3 * KEEP)
    await store.extend([(b, i) for i, b in enumerate(bars)])
    window = (await store.append(bars[-1], len(bars) - 1, want=10 * KEEP)).window
    assert window is not None
    assert len(window) == KEEP


async def test_a_group_that_was_set_back_finds_its_windows_again(store: ContextStore) -> None:
    """The store holds so much later bars that nothing old can enter any more."""
    broker, log = FakeBroker(), chain(4 * KEEP)
    for one in log:
        value, headers = encode(one)
        broker.cluster.append(broker.topics.bars, value, timestamp=one.open_time, headers=headers)
    contexts = Contexts(store, broker, want=WANT, keep=KEEP)  # type: ignore[arg-type]
    for offset, one in enumerate(log):
        await contexts.append(one, 0, offset)
    for offset, one in enumerate(log):
        window = await contexts.append(one, 0, offset)
        assert window is not None
        assert window.open_times.tolist() == [
            b.open_time for b in log[max(0, offset + 1 - WANT) : offset + 1]
        ]


async def test_short_symbols_of_a_partition_are_read_back_once(
    store: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, symbols = FakeBroker(), [f"S{n}" for n in range(8)]
    few = [
        msgspec.structs.replace(one, symbol=symbol) for one in chain(WANT - 1) for symbol in symbols
    ]
    for one in few:
        value, headers = encode(one)
        broker.cluster.append(broker.topics.bars, value, timestamp=one.open_time, headers=headers)
    await store.extend([(one, offset) for offset, one in enumerate(few)])
    contexts = Contexts(store, broker, want=WANT + 3, keep=KEEP)  # type: ignore[arg-type]
    reads = []
    read = broker.read
    monkeypatch.setattr(
        broker, "read", lambda *arguments: reads.append(arguments) or read(*arguments)
    )
    last = chain(WANT)[-1]
    for n, symbol in enumerate(symbols):
        one = msgspec.structs.replace(last, symbol=symbol)
        value, headers = encode(one)
        broker.cluster.append(broker.topics.bars, value, timestamp=one.open_time, headers=headers)
        window = await contexts.append(one, 0, len(few) + n)
        assert window is not None
        assert len(window) == WANT
    assert len(reads) <= 2


async def test_what_nobody_appends_to_is_forgotten(
    store: ContextStore, redis_url: str, topic_prefix: str
) -> None:
    bars = chain(3)
    await store.extend([(b, i) for i, b in enumerate(bars[:2])])
    await store.append(bars[2], 2, want=2)
    async with Redis.from_url(redis_url) as redis:
        keys = await redis.keys(f"{topic_prefix}:*")
        left_ms = [await redis.pttl(key) for key in keys]
    assert len(keys) == 1
    assert 0.9 * KEPT_MS < left_ms[0] <= KEPT_MS


async def test_an_emptied_store_is_read_back_once_for_the_whole_partition(
    store: ContextStore,
) -> None:
    log = [
        b
        for i in range(12)
        for b in (chain(12)[i], msgspec.structs.replace(chain(12)[i], symbol="ETHUSDT"))
    ]
    broker = broker_of(log)
    reads = 0
    plain_read = broker.read

    def counted(*args: object):  # type: ignore[no-untyped-def]
        nonlocal reads
        reads += 1
        return plain_read(*args)  # type: ignore[arg-type]

    broker.read = counted  # type: ignore[method-assign]
    contexts = Contexts(store, broker, want=WANT, keep=KEEP)
    first = await contexts.append(log[-2], 0, len(log) - 2)
    second = await contexts.append(log[-1], 0, len(log) - 1)
    assert reads == 1
    assert first is not None
    assert second is not None
    assert len(first) == len(second) == WANT
    assert np.array_equal(first.values, second.values)


async def test_an_emptied_store_is_filled_however_far_apart_the_bars_are(
    store: ContextStore,
) -> None:
    """Of a market that sleeps: as many bars as a window needs lie further back than as many
    intervals."""
    log: list[Bar] = []
    for i in range(12):
        last = log[-1].open_time if log else None
        log.append(bar(index=10 * i, close=100.0 + i, prev_open_time=last))
    contexts = Contexts(store, broker_of(log), want=WANT, keep=KEEP)  # type: ignore[arg-type]
    for offset, one in enumerate(log[:-1]):
        await contexts.append(one, 0, offset)
    await store.clear("BTCUSDT")
    assert same(await contexts.append(log[-1], 0, len(log) - 1), log[-WANT:])


async def test_corrections_push_no_bar_out(store: ContextStore) -> None:
    bars = chain(KEEP)
    await store.extend([(b, i) for i, b in enumerate(bars)])
    corrections = [msgspec.structs.replace(b, revision=r) for b in bars for r in (1, 2)]
    await store.extend([(b, KEEP + i) for i, b in enumerate(corrections)])
    window = (await store.append(bars[-1], 3 * KEEP, want=10 * KEEP)).window
    assert window is not None
    assert len(window) == KEEP
    # One more bar, and the oldest goes with all its revisions.
    more = chain(KEEP + 1)[-1]
    await store.append(more, 3 * KEEP + 1, want=1)
    window = (await store.append(more, 3 * KEEP + 1, want=10 * KEEP)).window
    assert window is not None
    assert window.open_times.tolist() == [b.open_time for b in [*bars[1:], more]]


async def test_a_correction_of_an_old_bar_reads_nothing_back(store: ContextStore) -> None:
    log = chain(3 * KEEP)
    log.append(msgspec.structs.replace(log[0], revision=1))
    broker = broker_of(log)
    contexts = Contexts(store, broker, want=WANT, keep=KEEP)  # type: ignore[arg-type]
    for offset, one in enumerate(log[:-1]):
        await contexts.append(one, 0, offset)
    broker.read = None  # type: ignore[assignment, method-assign]
    await contexts.append(log[-1], 0, len(log) - 1)


async def test_a_store_that_does_not_answer_is_named() -> None:
    store = ContextStore(
        RedisSettings(timeout_s=0.2), url="redis://127.0.0.1:1/0", interval="5m", scope="s", keep=9
    )
    with pytest.raises(StoreError, match="redis: no answer"):
        await store.start()
    await store.close()


async def test_a_cancelled_append_ends(redis_url: str, topic_prefix: str) -> None:
    """However far a call on a new connection has come: redis-py swallows some cancellations."""
    settings = RedisSettings(prefix=topic_prefix)
    for turns in range(60):
        store = ContextStore(settings, url=redis_url, interval="5m", scope="s", keep=KEEP)

        async def append_for_ever(store: ContextStore = store) -> None:
            while True:
                await store.append(bar(), 0, want=WANT)

        task = asyncio.create_task(append_for_ever())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=20)
        assert done, f"cancelled after {turns} turns, it went on"
        await store.close()
