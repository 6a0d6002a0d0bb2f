"""Scores against pandas, numpy and simulated forecasters of known quality."""

import numpy as np
import pandas as pd
import pytest

from kronos_stream.evaluation.bootstrap import draw_weights
from kronos_stream.evaluation.predictions import (
    Predictions,
    deviation,
    of_normal,
    path_volatility,
)
from kronos_stream.evaluation.report import expected_coverage
from kronos_stream.evaluation.scores import Truth, at_step, wilson

R, H, N = 400, 3, 50


def truth_of(y: np.ndarray, **changes: np.ndarray) -> Truth:
    """What happened, with plain measures beside it."""
    rows = len(y)
    plain = Truth(
        y=y,
        ewma=np.ones(rows),
        z=np.linspace(-2, 2, rows),
        unit=np.full(rows, 0.01),
        symbol=np.zeros(rows, np.int64),
        time=np.arange(rows),
    )
    return plain._replace(**changes)


@pytest.fixture(scope="module")
def drawn() -> tuple[Predictions, Truth]:
    """A forecaster that knows the distribution: drift and scale differ from row to row."""
    rng = np.random.default_rng(0)
    drift, scale = rng.normal(0, 0.01, (R, 1)), rng.uniform(0.005, 0.02, (R, 1))

    def walk(*shape: int) -> np.ndarray:
        return (drift + scale * rng.normal(size=(*shape, R, H))).cumsum(-1)

    y, paths = walk(), walk(N)
    made = Predictions.empty("known", R, H)
    for row in range(R):
        made.put(row, paths[:, row], y[row])
    return made, truth_of(y)


def test_ic_and_rank_ic_are_pearsons_and_spearmans(drawn: tuple[Predictions, Truth]) -> None:
    made, truth = drawn
    for step in range(H):
        scored = at_step(made, truth, step)
        mean, y = pd.Series(made.mean[:, step]), pd.Series(truth.y[:, step])
        assert scored["ic"] == pytest.approx(mean.corr(y))
        assert scored["rank_ic"] == pytest.approx(mean.corr(y, method="spearman"))
        assert scored["crps"] == pytest.approx(made.crps[:, step].mean())


def test_a_calibrated_forecaster_covers_what_its_paths_can(
    drawn: tuple[Predictions, Truth],
) -> None:
    made, truth = drawn
    for step in range(H):
        scored = at_step(made, truth, step)
        for band, share in expected_coverage(N).items():
            assert scored[f"coverage_{band}"] == pytest.approx(share, abs=0.06)
    assert expected_coverage(100)["90"] == pytest.approx(0.8822, abs=1e-4)


def test_bands_of_a_known_scale_are_nominal() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(0, 0.02, (20_000, 1))
    scored = at_step(of_normal("known", np.full_like(y, 0.02**2), y), truth_of(y), 0)
    found = [scored[f"coverage_{band}"] for band in (50, 80, 90)]
    assert found == pytest.approx([0.5, 0.8, 0.9], abs=0.01)
    assert scored["below"] == pytest.approx(np.arange(0.05, 0.96, 0.05).tolist(), abs=0.01)
    assert scored["volatility_mae"] == pytest.approx(
        np.abs(np.abs(y) - 0.02 * np.sqrt(2 / np.pi)).mean()
    )


def test_volatility_is_the_root_of_the_summed_squares(drawn: tuple[Predictions, Truth]) -> None:
    made, truth = drawn
    steps = np.diff(np.column_stack((np.zeros(R), truth.y)), axis=1)
    realised = np.sqrt((steps**2).sum(1))
    assert path_volatility(truth.y)[:, -1] == pytest.approx(realised)
    scored = at_step(made, truth, H - 1)
    expected = made.volatility[:, -1]
    residual, total = ((realised - expected) ** 2).sum(), ((realised - realised.mean()) ** 2).sum()
    assert scored["volatility_mae"] == pytest.approx(np.abs(realised - expected).mean())
    assert scored["volatility_r2"] == pytest.approx(1 - residual / total)


def test_equal_variances_give_the_mean_of_a_chi() -> None:
    y = np.zeros((1, 24))
    made = of_normal("walk", np.full_like(y, 1e-4), y)
    drawn = np.random.default_rng(0).normal(0, 1e-2, (20_000, 24))
    assert made.volatility[0] == pytest.approx(path_volatility(drawn.cumsum(1)).mean(0), rel=0.01)
    assert made.spread[0] == pytest.approx(0.01 * np.sqrt(np.arange(1, 25)))


@pytest.mark.parametrize("paths", [2, 3, 20, 100])
def test_the_spread_of_few_paths_is_not_too_small(paths: int) -> None:
    drawn = np.random.default_rng(4).normal(0, 1e-2, (paths, 200_000))
    assert deviation(drawn).mean() == pytest.approx(1e-2, rel=0.01)
    assert deviation(drawn[:1]).tolist() == [0.0] * 200_000


def test_the_slope_is_that_of_the_normalised_move_on_z() -> None:
    rng = np.random.default_rng(2)
    z, unit = rng.normal(size=R), rng.uniform(0.005, 0.02, R)
    move, moved = -0.6 * z + rng.normal(0, 0.1, R), 0.05 * z + rng.normal(0, 1, R)
    y = np.log1p(moved * unit)[:, None]
    made = Predictions.empty("reverting", R, 1)
    for row in range(R):
        made.put(row, np.full((2, 1), np.log1p(move[row] * unit[row])), y[row])
    scored = at_step(made, truth_of(y, z=z, unit=unit), 0)
    assert scored["slope"] == pytest.approx(np.polyfit(z, move, 1)[0])
    assert scored["realised_slope"] == pytest.approx(np.polyfit(z, moved, 1)[0])
    assert scored["spread_to_ewma"] == 0


def test_direction_is_that_of_the_median_where_both_move() -> None:
    y = np.array([[0.1], [-0.1], [0.2], [0.0], [0.3]])
    made = Predictions.empty("signs", 5, 1)
    for row, said in enumerate([0.1, 0.1, 0.1, 0.1, 0.0]):
        made.put(row, np.full((2, 1), said), y[row])
    scored = at_step(made, truth_of(y), 0)
    assert scored["direction_decided"] == 3
    assert scored["direction"] == pytest.approx(2 / 3)


def test_wilsons_interval() -> None:
    assert wilson(8, 10) == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert wilson(0, 0) is None


def test_a_point_forecast_has_no_ic_and_no_direction() -> None:
    y = np.random.default_rng(0).normal(size=(30, 1))
    scored = at_step(of_normal("persistence", np.zeros_like(y), y), truth_of(y), 0)
    assert (scored["ic"], scored["rank_ic"], scored["direction"]) == (None, None, None)
    assert scored["crps"] == pytest.approx(np.abs(y).mean())


def test_intervals_hold_the_estimates(drawn: tuple[Predictions, Truth]) -> None:
    made, truth = drawn
    scored = at_step(made, truth, 1, draw_weights(R, 8, 7))
    for name, ends in scored["interval_95"].items():
        assert ends[0] <= scored[name] <= ends[1], name
