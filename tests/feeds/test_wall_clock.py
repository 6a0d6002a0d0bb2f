"""A simulated market does not run ahead of the wall clock, where its ticks would be rejected."""

import math

import pytest

from kronos_stream.wire.codecs import decode
from kronos_stream.wire.messages import Marker, Tick
from tests.fakes import FakeBroker, FakeCluster
from tests.feeds.serving import Clock, service
from tests.samples import START_MS, STEP_MS

NOW_MS = START_MS + STEP_MS + 60_000
"""When the feed begins, by the wall: a bar and a minute after the market's first tick."""


@pytest.mark.parametrize("speed", [600.0, math.inf])
async def test_it_meets_the_present_and_goes_on_with_it(speed: float) -> None:
    clock = Clock()

    def wall() -> int:
        return NOW_MS + round(clock.now * 1000)

    broker = FakeBroker(FakeCluster(partitions=2, clock=wall))
    await service(broker, clock, bars=3, speed=speed, wall=wall).run()
    # Three bars and the grace, less what had passed when the feed began.
    assert clock.now == pytest.approx((2 * STEP_MS - 60_000 + 1_000) / 1000, abs=1.0)
    for record in broker.cluster.records(broker.topics.ticks):
        if record.key is None:
            time = decode(record.value, record.headers, Marker).marker_time
        else:
            time = decode(record.value, record.headers, Tick).time
        assert time <= record.timestamp


async def test_a_market_of_the_past_does_not_wait() -> None:
    clock = Clock()
    await service(FakeBroker(FakeCluster()), clock, bars=3, speed=math.inf).run()
    assert clock.now == 0
