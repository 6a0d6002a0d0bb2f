"""Contexts equal a pure function of the bars topic, whatever was lost or repeated on the way."""

import contextlib
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kronos_stream.context.contexts import Contexts
from kronos_stream.context.store import ContextStore
from kronos_stream.context.window import Window
from kronos_stream.wire.codecs import encode
from kronos_stream.wire.messages import Bar
from tests.fakes import FakeBroker
from tests.samples import bar

from .logs import KEEP, WANT, broker_of, chain, expected, expected_of, same

pytestmark = pytest.mark.integration


@st.composite
def logs(draw: st.DrawFn) -> list[Bar]:
    """A bars topic: history, live bars, corrections, and records repeated later on; of a market
    that is always open, or of one that sleeps for longer than a context reaches."""
    log: list[Bar] = []
    night = draw(st.sampled_from([0, 2 * KEEP]))
    for live in chain(24, history=draw(st.integers(0, 6)), session=4, night=night):
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
    max_examples=60,
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
    position = seen = 0
    while position < len(log):
        what = data.draw(st.integers(0, 9))
        if what == 0 and len({b.open_time for b in log[: position + 1]}) > 1:
            # (Of a symbol with a single bar nothing tells a repeated record from the first.)
            await store.clear("BTCUSDT")
        elif what == 1:
            # A crash: the committed position lies a few records back.
            position = max(0, position - data.draw(st.integers(0, 4)))
            contexts = Contexts(store, broker_of(log), want=WANT, keep=KEEP)
        elif what == 2:
            # The group was moved on, over a bar at least that nobody has seen, to a new one: no
            # chain tells of corrections and repetitions that were passed over alone.
            known = [{b.open_time for b in log[:place]} for place in range(len(log))]
            new = [p for p, b in enumerate(log) if b.open_time not in known[p] and not b.history]
            position = data.draw(st.sampled_from([p for p in new if p >= seen][1:] or [position]))
            contexts = Contexts(store, broker_of(log), want=WANT, keep=KEEP)
        trigger, seen = log[position], max(seen, position + 1)
        if trigger.history:
            await contexts.extend([(trigger, position)])
        else:
            window = await interrupted(contexts, store, data, trigger, position)
            if trigger.revision:
                assert window is None
            else:
                assert same(window, expected(log, position, WANT))
        position += 1


async def interrupted(
    contexts: Contexts, store: ContextStore, data: st.DataObject, trigger: Bar, position: int
) -> Window | None:
    """An append; where a context is read back, the store may be away in the middle of it."""
    extend, left = store.extend, iter(data.draw(st.lists(st.integers(0, 6), max_size=2)))

    async def failing(bars: Sequence[tuple[Bar, int]], *, aside: str | None = None) -> None:
        most = next(left, None)
        await extend(bars[:most], aside=aside)
        if most is not None:
            raise OSError("connection reset")

    store.extend = failing  # type: ignore[method-assign]
    try:
        while True:
            with contextlib.suppress(OSError):
                return await contexts.append(trigger, 0, position)
    finally:
        store.extend = extend  # type: ignore[method-assign]


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


async def test_repeated_records_of_short_symbols_read_nothing_back_again(
    store: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = ("BTCUSDT", "ETHUSDT")
    first = [msgspec.structs.replace(chain(1)[0], symbol=s) for s in symbols]
    corrections = [msgspec.structs.replace(b, revision=r) for b in first for r in range(1, 4)]
    more = [msgspec.structs.replace(b, symbol=s) for b in chain(8)[1:] for s in symbols]
    log = [*first, *corrections, *first, *more]
    broker = broker_of(log)
    reads = []
    read = broker.read
    monkeypatch.setattr(
        broker, "read", lambda *arguments: reads.append(arguments) or read(*arguments)
    )
    contexts = Contexts(store, broker, want=KEEP, keep=KEEP)  # type: ignore[arg-type]
    for offset, one in enumerate(log):
        window = await contexts.append(one, 0, offset)
        assert one.revision or same(window, expected_of(log, offset, KEEP))
    assert len(reads) <= len(symbols)


async def test_what_the_others_of_a_partition_hold_stays_without_a_hole(
    store: ContextStore,
) -> None:
    """One is read back; another holds what lies long before that, a third what is newer, a fourth
    nothing at all."""
    log = [
        msgspec.structs.replace(b, symbol=s)
        for b in chain(4 * KEEP)
        for s in ("LOST", "STALE", "WHOLE", "NONE")
    ]
    for offset, one in enumerate(log):
        index = offset // 4
        if (one.symbol == "STALE" and index < KEEP) or one.symbol == "WHOLE":
            await store.append(one, offset, want=1)
    last = len(log) - 4
    contexts = Contexts(store, broker_of(log), want=WANT, keep=KEEP)
    for offset in range(last, len(log)):
        assert same(await contexts.append(log[offset], 0, offset), expected_of(log, offset))
    for symbol in ("LOST", "STALE", "WHOLE", "NONE"):
        newest = next(b for b in reversed(log) if b.symbol == symbol)
        window = (await store.append(newest, len(log), want=99)).window
        assert window is not None
        assert len(window) == KEEP
        assert set(np.diff(window.open_times)) == {300_000}


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


async def test_a_correction_of_an_old_bar_reads_nothing_back(store: ContextStore) -> None:
    log = chain(3 * KEEP)
    log.append(msgspec.structs.replace(log[0], revision=1))
    broker = broker_of(log)
    contexts = Contexts(store, broker, want=WANT, keep=KEEP)  # type: ignore[arg-type]
    for offset, one in enumerate(log[:-1]):
        await contexts.append(one, 0, offset)
    broker.read = None  # type: ignore[assignment, method-assign]
    await contexts.append(log[-1], 0, len(log) - 1)
