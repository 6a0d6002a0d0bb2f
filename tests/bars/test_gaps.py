"""Ticks that a stage has not seen: lost, not listed then, of another partition."""

from collections.abc import Callable

import msgspec
import pytest

from kronos_stream.errors import BrokerError
from kronos_stream.wire.codecs import encode
from kronos_stream.wire.intervals import DAY_MS
from kronos_stream.wire.partitioning import partition_of
from tests.fakes import FakeBroker, FakeCluster
from tests.tick_sessions import GRACE, STEP, T0

from .stage import BARS, TICKS, Feed, bars_of, folded, running, settings_of, until_idle


async def test_bars_of_ticks_lost_to_retention_are_missing_also_after_another_restart() -> None:
    cluster = FakeCluster(partitions=1)
    feed = Feed(cluster)
    feed.marker(T0)
    feed.tick("BTCUSDT", T0 + 1)
    feed.marker(T0 + 2 * STEP + GRACE)
    settings = settings_of(("BTCUSDT",))
    await folded(FakeBroker(cluster), settings)
    feed.tick("BTCUSDT", T0 + 3 * STEP)
    feed.tick("BTCUSDT", T0 + 5 * STEP + 1)
    cluster.cut(TICKS, 0, 4)
    await folded(FakeBroker(cluster), settings)
    feed.tick("BTCUSDT", T0 + 6 * STEP + 1)
    await folded(FakeBroker(cluster), settings)
    feed.marker(T0 + 8 * STEP + GRACE)
    await folded(FakeBroker(cluster), settings)
    assert [(b.open_time - T0) // STEP for b in bars_of(cluster)] == [0, 1, 6, 7]
    assert [b.synthetic for b in bars_of(cluster)] == [False, True, False, True]
    assert bars_of(cluster)[2].prev_open_time == T0 + STEP
    assert all(b.complete for b in bars_of(cluster))


async def test_a_symbol_that_is_listed_later_begins_with_its_first_whole_bar() -> None:
    cluster = FakeCluster(partitions=1)
    feed, both = Feed(cluster), settings_of(("AUSDT", "BUSDT"))
    feed.marker(T0)
    feed.tick("AUSDT", T0)
    feed.tick("BUSDT", T0 + STEP + 1, "500")
    feed.tick("AUSDT", T0 + STEP + GRACE)
    await folded(FakeBroker(cluster), settings_of(("AUSDT",)))
    feed.tick("BUSDT", T0 + 2 * STEP - 1, "514")
    for n in (2, 3):
        feed.tick("BUSDT", T0 + n * STEP)
        feed.tick("AUSDT", T0 + n * STEP + 1)
        await folded(FakeBroker(cluster), both)
    feed.marker(T0 + 4 * STEP + GRACE)
    await folded(FakeBroker(cluster), both)
    made = {s: [b for b in bars_of(cluster) if b.symbol == s] for s in both.symbols}
    assert [(b.open_time - T0) // STEP for b in made["AUSDT"]] == [0, 1, 2, 3]
    assert [(b.open_time - T0) // STEP for b in made["BUSDT"]] == [2, 3]
    assert all(b.complete and b.trades == 1 for b in bars_of(cluster))


async def test_what_was_not_listed_meanwhile_is_missing_not_flat() -> None:
    """Of the interval after, and of the one that was open then, all ticks are read again."""
    cluster = FakeCluster(partitions=1)
    feed, both = Feed(cluster), settings_of(("AUSDT", "BUSDT"))
    feed.marker(T0)
    for n in range(7):
        feed.tick("AUSDT", T0 + n * STEP)
        if n != 4:
            feed.tick("BUSDT", T0 + n * STEP + 1)
        listed = settings_of(("AUSDT",)) if 3 <= n <= 4 else both
        await folded(FakeBroker(cluster), listed)
    feed.marker(T0 + 7 * STEP + GRACE)
    await folded(FakeBroker(cluster), both)
    made = {s: [b for b in bars_of(cluster) if b.symbol == s] for s in both.symbols}
    assert [(b.open_time - T0) // STEP for b in made["AUSDT"]] == [0, 1, 2, 3, 4, 5, 6]
    assert [((b.open_time - T0) // STEP, b.trades) for b in made["BUSDT"]] == [
        *((0, 1), (3, 1), (4, 0), (5, 1), (6, 1))
    ]
    assert made["BUSDT"][1].prev_open_time == T0
    assert all(b.complete for b in bars_of(cluster))


async def test_symbols_that_have_moved_to_another_partition_get_no_bars_here() -> None:
    cluster = FakeCluster(partitions=1)
    feed = Feed(cluster)
    feed.marker(T0)
    for n in range(2):
        feed.tick("AUSDT", T0 + n * STEP)
        feed.tick("BUSDT", T0 + n * STEP + 1)
    settings = settings_of(("AUSDT", "BUSDT"))
    await folded(FakeBroker(cluster), settings)
    cluster.partitions = 4
    gone = [s for s in settings.symbols if partition_of(s, 4) != 0]
    assert gone
    before = {s: sum(b.symbol == s for b in bars_of(cluster)) for s in settings.symbols}
    feed.marker(T0 + 4 * STEP + GRACE)
    await folded(FakeBroker(cluster), settings)
    for symbol in gone:
        assert sum(b.symbol == symbol for b in bars_of(cluster)) == before[symbol]


async def test_more_partitions_than_at_the_start_end_the_stage_and_say_so() -> None:
    cluster = FakeCluster(partitions=1)
    Feed(cluster).session(range(2))
    async with running(FakeBroker(cluster)) as service:
        await until_idle(service)
        with pytest.raises(BrokerError, match="has more partitions now than the 1 that it had"):
            await service._assign(frozenset({0, 1}))


async def test_after_a_loss_no_id_is_missed() -> None:
    cluster = FakeCluster(partitions=1)
    feed, settings = Feed(cluster), settings_of(("BTCUSDT",), contiguous_ids=True)
    feed.marker(T0)
    feed.tick("BTCUSDT", T0 + 1)
    feed.marker(T0 + STEP + GRACE)
    await folded(FakeBroker(cluster), settings)
    for n in range(3):
        feed.tick("BTCUSDT", T0 + 2 * STEP + n)
    cluster.cut(TICKS, 0, 5)
    feed.marker(T0 + 3 * STEP)
    feed.tick("BTCUSDT", T0 + 3 * STEP + 1)
    feed.marker(T0 + 4 * STEP + GRACE)
    await folded(FakeBroker(cluster), settings)
    assert [(b.open_time - T0) // STEP for b in bars_of(cluster)] == [0, 3]
    assert all(b.complete for b in bars_of(cluster))


@pytest.mark.parametrize("clock", [lambda: 0, lambda: T0 + 900 * DAY_MS])
async def test_bars_hang_on_no_clock(clock: Callable[[], int]) -> None:
    cluster = FakeCluster(partitions=1)
    feed, settings = Feed(cluster), settings_of(("BTCUSDT",))
    feed.marker(T0)
    for n in range(4):
        feed.tick("BTCUSDT", T0 + n * STEP + 1)
        await folded(FakeBroker(cluster), settings, clock=clock)
    feed.marker(T0 + 4 * STEP + GRACE)
    await folded(FakeBroker(cluster), settings, clock=clock)
    assert [(b.open_time - T0) // STEP for b in bars_of(cluster)] == [0, 1, 2, 3]


async def test_a_bar_of_the_far_future_silences_nobody() -> None:
    cluster = FakeCluster(partitions=1)
    feed, settings = Feed(cluster), settings_of(("BTCUSDT",))
    feed.marker(T0)
    feed.tick("BTCUSDT", T0 + 1)
    feed.marker(T0 + STEP + GRACE)
    await folded(FakeBroker(cluster), settings)
    wrong = msgspec.structs.replace(
        bars_of(cluster)[0], open_time=99_999_999_900_000, close_time=100_000_000_200_000
    )
    value, headers = encode(wrong)
    cluster.append(BARS, value, partition=0, timestamp=T0, headers=headers)
    feed.marker(T0 + 2 * STEP + GRACE)
    await folded(FakeBroker(cluster), settings)
    assert [(b.open_time - T0) // STEP for b in bars_of(cluster) if b != wrong] == [0, 1]
