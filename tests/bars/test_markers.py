"""Markers: who says in a ticks partition that a bar is over, and when."""

from collections.abc import Iterable

import pytest

from kronos_stream.settings import Settings
from kronos_stream.wire.codecs import decode
from kronos_stream.wire.messages import Marker
from tests.fakes import FakeBroker, FakeCluster
from tests.tick_sessions import GRACE, STEP, T0

from .stage import TICKS, Feed, bars_of, folded, running, settings_of, until_idle


class Wall:
    """A wall clock that the test sets."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def _quiet(**more: str | None) -> tuple[FakeCluster, Settings]:
    """A partition of ticks that others write, where time stands still after one of BTCUSDT."""
    cluster = FakeCluster(partitions=1)
    feed = Feed(cluster)
    feed.tick("ETHUSDT", T0)
    feed.tick("BTCUSDT", T0 + GRACE)
    return cluster, settings_of(("BTCUSDT",), **{"feed": "kafka", **more})  # type: ignore[arg-type]


async def test_the_owner_marks_a_close_only_when_the_clock_has_passed_it() -> None:
    cluster, settings = _quiet()
    wall = Wall(T0 + STEP + GRACE - 1)
    async with running(FakeBroker(cluster), settings, clock=wall) as service:
        await until_idle(service)
        assert len(cluster.records(TICKS)) == 2
        assert bars_of(cluster) == []
        wall.now += 1
        await until_idle(service)
        marker = cluster.records(TICKS)[-1]
        assert marker.key is None
        assert decode(marker.value, marker.headers, Marker) == Marker(marker_time=wall.now)
        assert [bar.open_time for bar in bars_of(cluster)] == [T0]
        await until_idle(service)
        assert len(cluster.records(TICKS)) == 3


async def test_a_clock_that_jumps_ahead_and_back_silences_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broker dates records by its own clock, so that marker is rejected."""
    cluster, settings = _quiet()
    now = T0 + STEP + GRACE
    append = cluster.append
    monkeypatch.setattr(
        cluster,
        "append",
        lambda topic, value, **more: append(topic, value, **(more | {"timestamp": now})),
    )
    wall = Wall(now + 600_000)
    async with running(FakeBroker(cluster), settings, clock=wall) as service:
        await until_idle(service)
        assert len(cluster.records(TICKS)) == 3
        assert bars_of(cluster) == []
        wall.now = now
        await until_idle(service)
        assert [bar.open_time for bar in bars_of(cluster)] == [T0]


async def test_a_rebalance_while_a_marker_is_due_delays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, settings = _quiet()
    broker = FakeBroker(cluster)
    ends, asked = broker.end_offsets, 0

    async def end_offsets(topic: str, partitions: Iterable[int]) -> dict[int, int]:
        nonlocal asked
        asked += topic == TICKS
        # The first is the assignment's.
        if topic == TICKS and asked == 2:
            service._subscription.assign(frozenset({0}))  # type: ignore[attr-defined]
        return await ends(topic, partitions)

    monkeypatch.setattr(broker, "end_offsets", end_offsets)
    async with running(broker, settings, clock=Wall(T0 + STEP + GRACE)) as service:
        for _ in range(3):
            await until_idle(service)
        assert asked > 2
        assert [bar.open_time for bar in bars_of(cluster)] == [T0]
        assert len(cluster.records(TICKS)) == 3


async def test_one_marker_ends_a_long_silence() -> None:
    cluster, settings = _quiet()
    await folded(FakeBroker(cluster), settings, clock=Wall(T0 + 5 * STEP + 77))
    assert len(cluster.records(TICKS)) == 3
    assert [bar.open_time for bar in bars_of(cluster)] == [T0 + i * STEP for i in range(4)]


async def test_an_heir_goes_on_marking_after_the_markers_of_another() -> None:
    cluster, settings = _quiet()
    for i in (1, 2):
        await folded(FakeBroker(cluster), settings, clock=Wall(T0 + i * STEP + GRACE))
    assert [bar.open_time for bar in bars_of(cluster)] == [T0, T0 + STEP]


async def test_a_feed_that_marks_knows_the_time_better() -> None:
    """A replay of the past: our clock would make every later tick late. Also after a restart."""
    cluster, settings = _quiet()
    Feed(cluster).marker(T0 + STEP + GRACE)
    for _ in range(2):
        await folded(FakeBroker(cluster), settings, clock=Wall(T0 + 10_000 * STEP))
    assert len(cluster.records(TICKS)) == 3
    assert [bar.open_time for bar in bars_of(cluster)] == [T0]


@pytest.mark.parametrize(
    ("feed", "markers", "embedded", "marks"),
    [
        ("kafka", None, False, True),
        (None, None, False, True),
        (None, None, True, False),
        ("simulated", None, False, False),
        ("kafka", "feed", False, False),
        ("simulated", "owner", False, True),
    ],
)
async def test_who_marks(
    feed: str | None, markers: str | None, embedded: bool, marks: bool
) -> None:
    cluster, settings = _quiet(feed=feed, markers=markers)
    broker = FakeBroker(cluster, embedded=embedded)
    await folded(broker, settings, clock=Wall(T0 + 10 * STEP))
    assert len(cluster.records(TICKS)) == 2 + marks
