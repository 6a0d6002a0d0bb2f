"""One grid of times for all symbols, laid without a look at prices."""

from collections import Counter

import numpy as np
import pytest

from kronos_stream.errors import InputError
from kronos_stream.evaluation.origins import Grid, lay_grid
from kronos_stream.evaluation.series import Series
from tests.samples import START_MS, STEP_MS

from .samples import CALENDAR, perturbed, series_of


def grid_of(*series: Series, count: int = 10_000, **options: int) -> Grid:
    return lay_grid(series, CALENDAR, context=25, horizon=4, count=count, **options)


def counts_of(grid: Grid) -> dict[int, int]:
    """Origins by the symbol's number."""
    return dict(Counter(origin.series for origin in grid.origins))


def test_the_grid_spans_from_the_first_bar_of_any_symbol_to_the_last_of_any() -> None:
    grid = grid_of(series_of("AAA", 100), series_of("BBB", 100, first=10))
    assert grid.times[0] == START_MS + STEP_MS * 24
    assert grid.times[-1] == START_MS + STEP_MS * (109 - 4)
    assert grid.stride == 1
    assert [origin[:2] for origin in grid.origins[9:13]] == [(0, 9), (0, 10), (1, 10), (0, 11)]
    assert grid.skipped == {
        "AAA": {"no_bar_at_origin": 6, "horizon_incomplete": 4},
        "BBB": {"context_incomplete": 10},
    }


def test_a_symbol_that_was_listed_late_takes_no_origin_from_another() -> None:
    pair = series_of("AAA", 3_000), series_of("BBB", 120, first=2_880)
    grid = grid_of(*pair, count=540, least=500)
    assert counts_of(grid) == {0: 540, 1: 17}
    assert grid.usable == {"AAA": 2_972, "BBB": 92}


def test_symbols_without_a_common_time_have_origins_all_the_same() -> None:
    grid = grid_of(series_of("AAA", 40), series_of("BBB", 40, first=40))
    assert counts_of(grid) == {0: 12, 1: 12}


def sparse() -> Series:
    """Runs of 40 bars with gaps of 160 between them: 12 origins in 200 intervals."""
    return series_of("AAA", 10_000, without=tuple(i for i in range(10_000) if i % 200 >= 40))


def test_times_grow_just_enough_where_bars_are_sparse() -> None:
    assert counts_of(grid_of(sparse(), count=540))[0] < 100
    grid = grid_of(sparse(), series_of("BBB", 10_000), count=540, least=500)
    assert 500 <= counts_of(grid)[0] <= 505
    assert pytest.approx(len(grid.times), rel=0.02) == 500 * 200 / 12
    every = grid_of(sparse(), count=540, least=600)
    assert counts_of(every) == {0: 600}


def test_a_symbol_that_cannot_have_enough_makes_no_grid_grow() -> None:
    grid = grid_of(sparse(), series_of("BBB", 10_000), count=540, least=601)
    assert counts_of(grid)[1] == pytest.approx(601, abs=3)


def test_where_no_symbol_can_have_enough_each_has_all() -> None:
    grid = grid_of(sparse(), series_of("BBB", 128), count=540, least=601)
    assert counts_of(grid) == {0: 600, 1: 100}


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
    for one, least in ((series_of("AAA", 200), 0), (sparse(), 500)):
        wild = perturbed(one, 60)
        grids = [grid_of(which, count=50, least=least) for which in (wild, one)]
        assert grids[0].origins == grids[1].origins


def test_a_part_of_the_span_may_be_chosen() -> None:
    since, until = START_MS + 50 * STEP_MS, START_MS + 80 * STEP_MS
    grid = grid_of(series_of("AAA", 200), since=since, until=until)
    assert (grid.times[0], grid.times[-1]) == (since, until - 4 * STEP_MS)


@pytest.mark.parametrize(
    ("series", "told"),
    [
        ((series_of("AAA", 20),), r"expected a span of 25 \+ 4 intervals .* found 20"),
        ((series_of("AAA", 3),), "found 3 intervals"),
        ((series_of("AAA", 50, without=(26,)),), r"none \(.*gap_in_context"),
    ],
)
def test_too_few_bars_are_told(series: tuple[Series, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        grid_of(*series)
