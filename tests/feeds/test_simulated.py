"""The simulated feed: seeded ticks with history before them, and disorder on request."""

from collections.abc import Iterator
from itertools import islice

import pytest

from kronos_stream.feeds.simulated import Arrival, Resume, SimulatedFeed
from kronos_stream.settings import FeedSettings

START_MS = 1_735_689_600_000
STEP_MS = 300_000


def feed(**changes: object) -> SimulatedFeed:
    return SimulatedFeed(
        ("BTCUSDT", "ETHUSDT"),
        FeedSettings(**changes),  # type: ignore[arg-type]
        interval="5m",
        grace_ms=1_000,
        start_ms=START_MS,
        resume={},
    )


def arrivals(made: SimulatedFeed, minutes: int) -> list[Arrival]:
    def each() -> Iterator[Arrival]:
        for _, batch in islice(made.minutes(), minutes):
            yield from batch

    return list(each())


def test_same_seed_same_ticks() -> None:
    assert arrivals(feed(), 5) == arrivals(feed(), 5)
    assert arrivals(feed(seed=8), 5) != arrivals(feed(), 5)


def test_ids_are_contiguous_and_times_in_order() -> None:
    got = arrivals(feed(), 10)
    assert [a.at for a in got] == sorted(a.at for a in got)
    for symbol in ("BTCUSDT", "ETHUSDT"):
        ids = [a.tick.trade_id for a in got if a.tick.symbol == symbol]
        assert ids == list(range(1, len(ids) + 1))


def test_history_ends_where_the_ticks_begin() -> None:
    made = feed()
    history = made.history("BTCUSDT", 50)
    assert history[-1].close_time == START_MS
    assert [b.prev_open_time for b in history[1:]] == [b.open_time for b in history[:-1]]
    assert all(b.history and b.low <= min(b.open, b.close) for b in history)
    first = next(a for a in arrivals(made, 2) if a.tick.symbol == "BTCUSDT")
    assert abs(float(first.tick.price) / history[-1].close - 1) < 0.02


def test_history_is_of_intervals_that_exist() -> None:
    every_third = feed().history("BTCUSDT", 50, lambda open_time: open_time // STEP_MS % 3 == 0)
    assert len(every_third) == 50
    assert {b.open_time // STEP_MS % 3 for b in every_third} == {0}
    assert {b.open_time - b.prev_open_time for b in every_third[1:]} == {3 * STEP_MS}
    assert feed().history("BTCUSDT", 50, lambda open_time: False) == []


def test_continues_ids_and_price() -> None:
    made = SimulatedFeed(
        ("BTCUSDT",),
        FeedSettings(),
        interval="5m",
        grace_ms=1_000,
        start_ms=START_MS,
        resume={"BTCUSDT": Resume(last_id=500, price=12_345.0)},
    )
    first = arrivals(made, 2)[0].tick
    assert first.trade_id == 501
    assert abs(float(first.price) / 12_345.0 - 1) < 0.02


@pytest.mark.parametrize("kind", ["duplicates", "out_of_order", "late"])
def test_disorder_on_request(kind: str) -> None:
    got = arrivals(feed(**{kind: 0.2}), 12)
    ids = [(a.tick.symbol, a.tick.trade_id) for a in got]
    repeated = len(ids) - len(set(ids))
    delayed = [a for a in got if a.at > a.tick.time]
    beyond = [a for a in got if a.at > a.tick.time // STEP_MS * STEP_MS + STEP_MS + 1_000]
    assert (repeated > 0.1 * len(ids)) == (kind == "duplicates")
    assert len(delayed) > 0.1 * len(ids)
    assert bool(beyond) == (kind == "late")
