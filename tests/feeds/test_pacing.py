"""Back-pressure: the feed waits for the slowest stage, and never for ever without need."""

import asyncio

from kronos_stream.feeds.pacing import Backpressure


async def test_waits_until_every_stage_has_room() -> None:
    pressure = Backpressure({"ticks": 10, "bars": 2})
    pressure.produced("bars", 3)
    waiting = asyncio.create_task(pressure.wait_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    pressure.consumed("bars", 1)
    await waiting


async def test_patience_ends_where_others_took_over() -> None:
    pressure = Backpressure({"bars": 1}, patience_s=0.01)
    pressure.produced("bars", 5)
    await pressure.wait_room()
    assert pressure.unfinished("bars") == 0


async def test_a_limit_may_be_moved_on_the_way() -> None:
    pressure = Backpressure({"bars": 5})
    pressure.produced("bars", 3)
    pressure.limit("bars", 2)
    waiting = asyncio.create_task(pressure.wait_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    pressure.consumed("bars", 1)
    await waiting
