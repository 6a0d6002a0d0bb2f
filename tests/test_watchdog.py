"""The watchdog bites where a position stands still while its topic moves, and nowhere else."""

from collections.abc import Iterable, Mapping

import pytest

from kronos_stream import telemetry
from kronos_stream.errors import BrokerError
from kronos_stream.watchdog import Watchdog


class Stage:
    """A stage, its topic and its clock."""

    def __init__(self) -> None:
        self.at = {0: 5, 1: 7}
        self.end = {0: 5, 1: 7}
        self.waits_for: str | None = None
        self.silent = False
        self.now = 0.0
        self.dog = Watchdog("bars", self, self.ends, bites_after_s=8.0, monotonic=lambda: self.now)

    def positions(self) -> Mapping[int, int]:
        return dict(self.at)

    async def ends(self, partitions: Iterable[int]) -> Mapping[int, int]:
        if self.silent:
            raise BrokerError("no answer")
        return {p: self.end[p] for p in partitions}

    async def passes(self, seconds: int, *, topic: int = 0, stage: int = 0) -> None:
        """A look every second, while topic and stage go on by so many records."""
        for _ in range(seconds):
            self.now += 1
            self.end[1] += topic
            self.at[1] += stage
            await self.dog.look()


async def test_a_position_that_stands_still_while_its_topic_moves_ends_the_process() -> None:
    stage = Stage()
    await stage.passes(8, topic=1)
    with pytest.raises(BrokerError, match="bars: partition 1 stands still at 7 for 9 s"):
        await stage.passes(3, topic=1)


async def test_a_quiet_topic_is_no_reason() -> None:
    stage = Stage()
    await stage.passes(50)
    await stage.passes(3, topic=1)


async def test_a_backlog_that_does_not_grow_is_no_reason() -> None:
    """Retention, or others' transactions, may leave offsets that nobody delivers."""
    stage = Stage()
    stage.end[1] += 3
    await stage.passes(50)


async def test_a_slow_stage_is_no_reason() -> None:
    stage = Stage()
    await stage.passes(50, topic=10, stage=1)
    assert telemetry.LAG.labels("bars")._value.get() == 450


async def test_a_stage_that_knows_what_it_waits_for_is_left_alone() -> None:
    stage = Stage()
    stage.waits_for = "the store"
    await stage.passes(50, topic=1)
    stage.waits_for = None
    await stage.passes(8, topic=1)
    with pytest.raises(BrokerError):
        await stage.passes(3, topic=1)


async def test_a_partition_that_went_to_another_member_is_forgotten() -> None:
    stage = Stage()
    await stage.passes(7, topic=1)
    del stage.at[1]
    stage.now += 1
    await stage.dog.look()
    stage.at[1] = 7
    await stage.passes(6, topic=1, stage=0)


async def test_a_broker_that_does_not_answer_is_told_and_is_no_reason() -> None:
    stage = Stage()
    await stage.passes(1)
    assert stage.dog.trouble() is None
    stage.silent = True
    await stage.passes(20, topic=1)
    assert stage.dog.trouble() == "the broker has not answered for 20 s"
    stage.silent = False
    await stage.passes(3, topic=1)
    assert stage.dog.trouble() is None
