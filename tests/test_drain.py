"""A stage is drained once its partitions are, and never waited for without need."""

import math
from collections.abc import Mapping

from kronos_stream.drain import drained


class Stage:
    """Goes on by one record of each partition whenever somebody waits."""

    def __init__(self, at: dict[int, int], end: dict[int, int]) -> None:
        self.at, self.end = at, end
        self.waits_for: str | None = None
        self.unassigned_for = 0
        self.waited = 0

    def positions(self) -> Mapping[int, int]:
        return dict(self.at)

    def trouble(self) -> str | None:
        return "no assignment yet" if self.unassigned_for else None

    async def sleep(self, _: float) -> None:
        self.waited += 1
        self.unassigned_for = max(0, self.unassigned_for - 1)
        for number, place in self.at.items():
            self.at[number] = min(place + 1, self.end[number])


async def test_every_owned_partition_reaches_its_end() -> None:
    stage = Stage({0: 5, 3: 0}, {0: 6, 3: 9})
    await drained(stage, {0: 6, 1: 100, 3: 9}, patience_s=math.inf, sleep=stage.sleep)
    assert stage.at == {0: 6, 3: 9}


async def test_what_comes_later_is_not_waited_for() -> None:
    stage = Stage({0: 5}, {0: 50})
    await drained(stage, {0: 7}, patience_s=math.inf, sleep=stage.sleep)
    assert stage.at == {0: 7}


async def test_without_an_assignment_nothing_is_drained() -> None:
    stage = Stage({}, {})
    stage.unassigned_for = 4
    await drained(stage, {0: 7}, patience_s=0.1, sleep=stage.sleep)
    assert stage.waited == 4


async def test_work_that_was_read_is_waited_for_beyond_all_patience() -> None:
    stage = Stage({0: 7}, {0: 7})
    stage.waits_for = "forecasts under way"

    async def sleep(seconds: float) -> None:
        await stage.sleep(seconds)
        if stage.waited == 1_000:
            stage.waits_for = None

    await drained(stage, {0: 7}, patience_s=0.1, sleep=sleep)
    assert stage.waited == 1_000


async def test_a_log_whose_last_records_no_consumer_sees_ends_with_patience() -> None:
    stage = Stage({0: 5}, {0: 7})
    await drained(stage, {0: 8}, patience_s=1.0, sleep=stage.sleep)
    assert stage.at == {0: 7}
    assert stage.waited < 100
