"""What is read back of the bars topic."""

import pytest

from kronos_stream.bars.published import last_published
from kronos_stream.wire.codecs import encode
from kronos_stream.wire.intervals import DAY_MS, INTERVAL_MS
from kronos_stream.wire.messages import Bar
from tests.fakes import FakeBroker

STEP = INTERVAL_MS["5m"]
T0 = 1_735_689_600_000


def _bar(symbol: str, open_time: int, **more: object) -> Bar:
    values = dict.fromkeys(("open", "high", "low", "close", "volume", "amount"), 1.0)
    return Bar(
        symbol=symbol,
        interval="5m",
        open_time=open_time,
        close_time=open_time + STEP,
        **{**values, **more},  # type: ignore[arg-type]
    )


def _put(broker: FakeBroker, *bars: Bar) -> None:
    for bar in bars:
        value, headers = encode(bar)
        broker.cluster.append(
            broker.topics.bars, value, partition=1, timestamp=bar.open_time, headers=headers
        )


class CountingBroker(FakeBroker):
    """Remembers what was read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[int, int]] = []

    def read(self, topic, partition, start, end):  # type: ignore[no-untyped-def]
        self.reads.append((start, end))
        return super().read(topic, partition, start, end)


async def _last(
    broker: FakeBroker,
    watermark: int | None,
    expected: set[str] | None,
    *,
    sessions: bool = False,
) -> dict:
    found = await last_published(
        broker,  # type: ignore[arg-type]
        1,
        watermark=watermark,
        interval_ms=STEP,
        expected=expected,
        sessions=sessions,
        until=T0 + 400 * DAY_MS,
    )
    return {symbol: bar.open_time for symbol, bar in found.items()}


async def test_an_empty_topic_holds_nothing() -> None:
    assert await _last(FakeBroker(), T0, {"A"}) == {}
    assert await _last(FakeBroker(), None, None) == {}


async def test_history_and_corrections_do_not_count() -> None:
    broker = FakeBroker()
    _put(
        broker, _bar("A", T0), _bar("A", T0 + STEP, history=True), _bar("A", T0 + STEP, revision=1)
    )
    broker.cluster.append(broker.topics.bars, b"junk", partition=1, timestamp=T0)
    assert await _last(broker, T0, {"A"}) == {"A": T0}


async def test_a_bar_of_the_far_future_is_nobodys() -> None:
    broker = FakeBroker()
    _put(broker, _bar("A", T0), _bar("A", 99_999_999_900_000), _bar("B", T0))
    assert await _last(broker, T0, {"A", "B"}) == {"A": T0, "B": T0}


async def test_a_bar_repeated_by_a_zombie_does_not_count_as_newest() -> None:
    broker = FakeBroker()
    _put(broker, _bar("A", T0), _bar("A", T0 + STEP), _bar("A", T0))
    assert await _last(broker, T0, {"A"}) == {"A": T0 + STEP}


async def test_only_the_window_is_read_when_everybody_is_in_it() -> None:
    broker = CountingBroker()
    _put(broker, *(_bar("A", T0 + i * STEP) for i in range(1_000)))
    assert await _last(broker, T0 + 1_000 * STEP, {"A"}) == {"A": T0 + 999 * STEP}
    assert broker.reads == [(998, 1_000)]


async def test_a_silent_symbol_is_looked_for_further_back_without_reading_twice() -> None:
    broker = CountingBroker()
    _put(broker, _bar("OLD", T0), _bar("WEEK", T0 + 95 * DAY_MS))
    _put(broker, *(_bar("A", T0 + 100 * DAY_MS + i * STEP) for i in range(10)))
    now = T0 + 100 * DAY_MS + 10 * STEP
    found = await _last(broker, now, {"A", "WEEK", "OLD"})
    assert found == {"A": now - STEP, "WEEK": T0 + 95 * DAY_MS, "OLD": T0}
    assert broker.reads == [(10, 12), (2, 10), (1, 2), (0, 1)]


async def test_with_every_symbol_taken_the_search_ends_after_eight_days() -> None:
    broker = FakeBroker()
    _put(broker, _bar("OLD", T0), _bar("WEEK", T0 + 95 * DAY_MS), _bar("A", T0 + 100 * DAY_MS))
    assert set(await _last(broker, T0 + 100 * DAY_MS, None)) == {"A", "WEEK"}
    assert set(await _last(broker, None, None)) == {"A", "WEEK", "OLD"}


@pytest.mark.parametrize("days", [9, 34])
async def test_after_a_long_closure_every_symbol_is_found(days: int) -> None:
    """Else its first bar after the holidays would be taken for its first one ever."""
    broker = FakeBroker()
    _put(broker, _bar("A", T0))
    watermark = T0 + days * DAY_MS
    assert await _last(broker, watermark, None, sessions=True) == {"A": T0}
    assert await _last(broker, watermark, None) == {}
    assert await _last(broker, watermark, {"A"}) == {"A": T0}
