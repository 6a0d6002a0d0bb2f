"""Blocks of neighbouring origin times, drawn with all of their symbols."""

import numpy as np
import pytest

from kronos_stream.evaluation.bootstrap import block_length, draw_weights, enough, interval


@pytest.mark.parametrize(
    ("times", "horizon", "stride", "block"),
    [(500, 24, 20.0, 8), (500, 24, 4.0, 12), (500, 24, 200.0, 8), (3, 24, 1.0, 3)],
)
def test_a_block_covers_two_horizons(times: int, horizon: int, stride: float, block: int) -> None:
    assert block_length(times, horizon, stride) == block


def test_each_resample_holds_as_many_times_in_blocks() -> None:
    weights = draw_weights(20, 5, 1, resamples=200)
    assert (weights.sum(1) == 20).all()
    assert draw_weights(20, 20, 1, resamples=9).tolist() == [[1.0] * 20] * 9
    # A time in a block of 5 has a neighbour of its block on at least one side.
    alone = (weights > 0) & (np.roll(weights, 1, 1) == 0) & (np.roll(weights, -1, 1) == 0)
    assert not alone.any()


def test_the_seed_decides() -> None:
    assert (draw_weights(30, 4, 1) == draw_weights(30, 4, 1)).all()
    assert (draw_weights(30, 4, 1) != draw_weights(30, 4, 2)).any()


def test_the_interval_of_a_mean_is_as_wide_as_its_error() -> None:
    x = np.random.default_rng(0).normal(size=400)
    means = draw_weights(400, 1, 0) @ x / 400
    found = interval(means)
    assert found is not None
    low, high = found
    assert (high - low) / (2 * 1.96) == pytest.approx(1 / 20, rel=0.15)
    assert low < x.mean() < high


def test_what_is_undefined_in_a_resample_has_no_interval() -> None:
    assert interval(np.array([1.0, np.nan])) is None


def test_few_blocks_are_no_sample() -> None:
    assert enough(80, 10)
    assert not enough(79, 10)
