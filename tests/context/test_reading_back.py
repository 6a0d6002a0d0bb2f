"""Contexts that are read back while something else happens: another owner, a topic cut short,
records that are of no use, a broker that falls silent."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from kronos_stream.context import contexts as contexts_module
from kronos_stream.context.contexts import Contexts
from kronos_stream.context.store import ContextStore
from kronos_stream.errors import BrokerError
from kronos_stream.settings import RedisSettings
from kronos_stream.wire.messages import Bar
from tests.fakes import FakeBroker
from tests.samples import bar

from .logs import KEEP, WANT, broker_of, chain, expected, same

pytestmark = pytest.mark.integration


def contexts_of(store: ContextStore, broker: FakeBroker, want: int = WANT) -> Contexts:
    return Contexts(store, broker, want=want, keep=KEEP)  # type: ignore[arg-type]


async def test_who_reads_back_for_a_partition_given_up_takes_nothing_from_its_new_owner(
    store: ContextStore, redis_url: str, topic_prefix: str
) -> None:
    log = chain(14)
    correction = msgspec.structs.replace(log[12], revision=1, close=777.0)
    log += [correction, chain(15)[14]]
    stopped, go = asyncio.Event(), asyncio.Event()

    class Stalled(ContextStore):
        async def extend(
            self, bars: Sequence[tuple[Bar, int]], *, aside: str | None = None
        ) -> None:
            stopped.set()
            await go.wait()
            await super().extend(bars, aside=aside)

    other = Stalled(
        RedisSettings(prefix=topic_prefix), url=redis_url, interval="5m", scope="s", keep=KEEP
    )
    before, after = contexts_of(other, broker_of(log)), contexts_of(store, broker_of(log))
    reading = asyncio.create_task(before.append(log[13], 0, 13))
    await stopped.wait()
    for offset in (13, 14):
        await after.append(log[offset], 0, offset)
    go.set()
    await reading
    assert same(await after.append(log[15], 0, 15), expected(log, 15, WANT))
    await other.close()


@pytest.mark.parametrize("want", [WANT, KEEP], ids=["whole", "short"])
async def test_what_is_held_of_before_the_topic_begins_stays(
    store: ContextStore, want: int
) -> None:
    """Retention has removed it there."""
    log = chain(12)
    broker = broker_of(log)
    contexts = contexts_of(store, broker, want)
    for offset, one in enumerate(log[:-1]):
        await contexts.append(one, 0, offset)
    broker.cluster.begins[broker.topics.bars, 0] = 8
    again = contexts_of(store, broker, want)
    assert same(await again.append(log[-1], 0, len(log) - 1), log[-want:])


async def test_records_that_the_stage_rejects_are_not_read_back_either(
    store: ContextStore,
) -> None:
    log = chain(9)
    foreign = msgspec.structs.replace(bar(index=4, close=9.9), interval="1m")
    future = bar(index=10_000_000, close=9.9, prev_open_time=None)
    mixed = [log[0], future, *log[1:5], foreign, *log[5:]]
    contexts = contexts_of(store, broker_of(mixed))
    for offset, one in enumerate(mixed):
        if one in log:
            window = await contexts.append(one, 0, offset)
            assert same(window, log[: log.index(one) + 1][-WANT:])
            if offset == 7:
                await store.clear("BTCUSDT")


async def test_the_first_bar_of_a_symbol_finds_its_place_behind_a_later_one(
    store: ContextStore,
) -> None:
    log = [bar(index=20, close=1.0), *chain(8)]
    contexts = contexts_of(store, broker_of(log))
    for offset, one in enumerate(log):
        window = await contexts.append(one, 0, offset)
        assert same(window, [one] if offset == 0 else log[1 : offset + 1][-WANT:])


async def test_a_late_correction_does_not_hide_that_a_context_ended_long_ago(
    store: ContextStore,
) -> None:
    last, stale = None, []
    for index in (10, 11, 12, 13, 40, 50, 56, 61):
        stale.append(bar("STALE", index, close=100.0 + index, prev_open_time=last))
        last = stale[-1].open_time
    lost = [msgspec.structs.replace(b, symbol="LOST") for b in chain(61)]
    late = msgspec.structs.replace(stale[3], revision=1, close=5.0)
    log = sorted([*lost, *stale[:-1]], key=lambda b: b.open_time)
    log.insert(next(i for i, b in enumerate(log) if b is stale[5]), late)
    log.append(stale[-1])
    for offset, one in enumerate(log):
        if one.symbol == "STALE" and one.open_time <= stale[3].open_time and not one.revision:
            await store.append(one, offset, want=1)
    contexts = contexts_of(store, broker_of(log))
    await contexts.append(lost[-1], 0, log.index(lost[-1]))
    window = await contexts.append(stale[-1], 0, len(log) - 1)
    assert same(window, [late, *stale[4:]])


async def test_a_broker_that_falls_silent_is_an_error(
    store: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(FakeBroker):
        async def read(self, *arguments: Any) -> AsyncIterator[Any]:
            await asyncio.Event().wait()
            yield []

    monkeypatch.setattr(contexts_module, "SILENCE_S", 0.01)
    contexts = contexts_of(store, Silent())
    with pytest.raises(BrokerError, match=r"no record for 0.01 s, though there are some"):
        await contexts.append(chain(2)[1], 0, 1)
    assert contexts.reading is None


async def test_nothing_that_was_written_aside_is_left(
    store: ContextStore, redis_url: str, topic_prefix: str
) -> None:
    log = [msgspec.structs.replace(b, symbol=s) for b in chain(8) for s in ("A", "B")]
    contexts = contexts_of(store, broker_of(log))
    for offset in (14, 15):
        window = await contexts.append(log[offset], 0, offset)
        assert window is not None
        assert set(np.diff(window.open_times)) == {300_000}
    keys = await store._redis.keys(f"{topic_prefix}:*")
    assert len(keys) == 2


async def test_a_repeated_record_does_not_make_a_part_of_a_context_the_whole(
    store: ContextStore,
) -> None:
    """Of a symbol whose bars lie apart; the store is emptied, and another one's is read back."""
    few: list[Bar] = []
    for index in (0, 30, 60, 92, 101, 102):
        few.append(
            bar("FEW", index, close=1.0 + index, prev_open_time=few[-1].open_time if few else None)
        )
    busy = [msgspec.structs.replace(b, symbol="BUSY") for b in chain(104)]
    log = sorted([*busy, *few], key=lambda b: b.open_time)
    log.insert(log.index(few[3]) + 1, few[0])
    contexts = contexts_of(store, broker_of(log))
    for offset, one in enumerate(log):
        if one.open_time == busy[95].open_time:
            await store.clear("FEW")
            await store.clear("BUSY")
        window = await contexts.append(one, 0, offset)
        its = [b for b in log[: offset + 1] if b.symbol == one.symbol and b is not few[0]]
        if one.symbol == "FEW" and one is not few[0]:
            assert same(window, [few[0], *its][-WANT:])


async def test_a_try_that_fails_leaves_nothing_aside(
    store: ContextStore, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, extend = chain(8), store.extend

    async def fails(*arguments: Any, **more: Any) -> None:
        await extend(*arguments, **more)
        raise OSError("connection reset")

    contexts = contexts_of(store, broker_of(log))
    with monkeypatch.context() as patch:
        patch.setattr(store, "extend", fails)
        for _ in range(3):
            with pytest.raises(OSError, match="connection reset"):
                await contexts.append(log[-1], 0, len(log) - 1)
    assert len(await store._redis.keys(f"{topic_prefix}:*")) == 1
    assert same(await contexts.append(log[-1], 0, len(log) - 1), log[-WANT:])


async def test_only_what_is_behind_is_written_anew(
    store: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new listing reads the topic from its beginning: the others' contexts are not copied."""
    log = [msgspec.structs.replace(b, symbol=s) for b in chain(20) for s in ("A", "B")]
    contexts = contexts_of(store, broker_of(log))
    for offset, one in enumerate(log):
        await contexts.append(one, 0, offset)
    new = bar("NEW", 20, prev_open_time=None)
    written: list[str] = []
    extend = store.extend

    async def noted(bars: Sequence[tuple[Bar, int]], *, aside: str | None = None) -> None:
        written.extend(one.symbol for one, _ in bars)
        await extend(bars, aside=aside)

    monkeypatch.setattr(store, "extend", noted)
    contexts = contexts_of(store, broker_of([*log, new]))
    assert same(await contexts.append(new, 0, len(log)), [new])
    assert written == []
