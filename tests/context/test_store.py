"""The store alone: one script inserts, answers and trims."""

import asyncio

import msgspec
import pytest
from redis.asyncio import Redis

from kronos_stream.context.store import KEPT_MS, ContextStore
from kronos_stream.errors import StoreError
from kronos_stream.settings import RedisSettings
from tests.samples import bar

from .logs import KEEP, WANT, chain, same

pytestmark = pytest.mark.integration


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


async def test_keeps_no_more_than_it_needs(store: ContextStore) -> None:
    bars = chain(3 * KEEP)
    await store.extend([(b, i) for i, b in enumerate(bars)])
    window = (await store.append(bars[-1], len(bars) - 1, want=10 * KEEP)).window
    assert window is not None
    assert len(window) == KEEP


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
