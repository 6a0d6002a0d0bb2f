"""The figures of a record against plain NumPy and plain loops."""

import itertools
import math
import statistics

import numpy as np
import pytest
from numpy.typing import NDArray

from kronos_stream.forecasts.quantiles import figures
from kronos_stream.wire.messages import CHANNELS, CLOSE
from tests.samples import LEVELS

LAST_CLOSE = 100.0


def _paths(n: int = 21, steps: int = 5, seed: int = 3) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return LAST_CLOSE * np.exp(rng.normal(0, 0.02, (n, steps, 6)))


def test_every_channel_step_and_level_is_numpys_quantile() -> None:
    paths = _paths()
    made = figures(paths, LAST_CLOSE, LEVELS)
    assert tuple(made.quantiles) == tuple(made.mean) == CHANNELS
    for channel, name in enumerate(CHANNELS):
        for step in range(paths.shape[1]):
            column = paths[:, step, channel]
            assert made.quantiles[name][step] == [float(np.quantile(column, q)) for q in LEVELS]
            assert made.mean[name][step] == pytest.approx(statistics.fmean(column), rel=1e-12)


def test_p_up_counts_closes_above_the_last_one() -> None:
    paths = _paths(4, 2)
    paths[:, 0, CLOSE] = [99.0, 100.0, 101.0, 102.0]
    paths[:, 1, CLOSE] = [101.0, 101.0, 101.0, 101.0]
    assert figures(paths, LAST_CLOSE, LEVELS).p_up == [0.5, 1.0]


def test_volatility_is_the_root_of_squared_log_returns_of_each_path() -> None:
    paths = _paths()
    expected = []
    for path in paths:
        closes = [LAST_CLOSE, *path[:, CLOSE]]
        returns = [math.log(b / a) for a, b in itertools.pairwise(closes)]
        expected.append(math.sqrt(sum(r * r for r in returns)))
    made = figures(paths, LAST_CLOSE, LEVELS)
    assert made.volatility_mean == pytest.approx(statistics.fmean(expected), rel=1e-12)
    assert made.volatility_quantiles == pytest.approx(np.quantile(expected, LEVELS), rel=1e-12)


def test_nothing_is_averaged_before_the_quantiles() -> None:
    # The mean path would be flat; half of the paths rise and half fall.
    paths = np.full((2, 1, 6), LAST_CLOSE)
    paths[:, 0, CLOSE] = [90.0, 110.0]
    made = figures(paths, LAST_CLOSE, [0.0, 0.5, 1.0])
    assert made.quantiles["close"] == [[90.0, 100.0, 110.0]]
    assert made.mean["close"] == [100.0]
    assert made.volatility_mean > 0.09


def test_levels_are_in_their_order_and_quantiles_do_not_cross() -> None:
    made = figures(_paths(), LAST_CLOSE, LEVELS)
    for table in made.quantiles.values():
        assert all(row == sorted(row) and len(row) == len(LEVELS) for row in table)


def test_the_order_of_the_paths_is_nothing_to_the_quantiles() -> None:
    paths = _paths()
    one, other = (figures(p, LAST_CLOSE, LEVELS) for p in (paths, paths[::-1]))
    assert one.quantiles == other.quantiles
    assert one.p_up == other.p_up


def test_a_single_path_and_a_single_step() -> None:
    paths = _paths(1, 1)
    made = figures(paths, LAST_CLOSE, [0.05, 0.95])
    close = float(paths[0, 0, CLOSE])
    assert made.quantiles["close"] == [[close, close]]
    assert made.volatility_mean == pytest.approx(abs(math.log(close / LAST_CLOSE)))
