"""One grid of times for all symbols, laid without a look at prices."""

import numpy as np
import pytest

from kronos_stream.errors import InputError
from kronos_stream.evaluation.origins import Grid, lay_grid
from kronos_stream.evaluation.series import Series
from tests.samples import START_MS, STEP_MS

from .samples import CALENDAR, perturbed, series_of


def grid_of(*series: Series, count: int = 10_000, **options: int) -> Grid:
    return lay_grid(series, CALENDAR, context=25, horizon=4, count=count, **options)


def test_the_grid_spans_all_that_is_common() -> None:
    grid = grid_of(series_of("AAA", 100), series_of("BBB", 100, first=10))
    assert grid.times[0] == START_MS + STEP_MS * (10 + 24)
    assert grid.times[-1] == START_MS + STEP_MS * (99 - 4)
    assert grid.stride == 1
    assert [origin[:2] for origin in grid.origins[:3]] == [(0, 0), (1, 0), (0, 1)]


def test_origins_are_even_in_time_and_the_same_for_all() -> None:
    grid = grid_of(series_of("AAA", 300), series_of("BBB", 300), count=20)
    steps = np.diff(grid.times) // STEP_MS
    assert len(grid.times) == 20
    assert steps.max() - steps.min() <= 1
    assert grid.stride == pytest.approx(steps.mean())
    times = [[o.time for o in grid.origins if o.series == n] for n in (0, 1)]
    assert times[0] == times[1] == list(range(20))


def test_a_gap_takes_the_origins_that_would_reach_over_it() -> None:
    grid = grid_of(series_of("AAA", 200, without=(100,)))
    rows = {(origin.row, int(grid.times[origin.time])) for origin in grid.origins}
    left = {(t - START_MS) // STEP_MS for _, t in rows}
    assert set(range(24, 196)) - left == set(range(96, 125))
    assert grid.skipped == {
        "AAA": {"gap_in_horizon": 4, "no_bar_at_origin": 1, "gap_in_context": 24}
    }


def test_prices_choose_nothing() -> None:
    wild = perturbed(series_of("AAA", 200), 60)
    assert grid_of(wild).origins == grid_of(series_of("AAA", 200)).origins


def test_a_part_of_the_span_may_be_chosen() -> None:
    since, until = START_MS + 50 * STEP_MS, START_MS + 80 * STEP_MS
    grid = grid_of(series_of("AAA", 200), since=since, until=until)
    assert (grid.times[0], grid.times[-1]) == (since, until - 4 * STEP_MS)


@pytest.mark.parametrize(
    ("series", "told"),
    [
        ((series_of("AAA", 20),), r"common to all symbols of 25 \+ 4 intervals .* found 20"),
        ((series_of("AAA", 40), series_of("BBB", 40, first=40)), "found 0 intervals"),
        ((series_of("AAA", 50, without=(26,)),), r"none \(.*gap_in_context"),
    ],
)
def test_too_few_bars_are_told(series: tuple[Series, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        grid_of(*series)
