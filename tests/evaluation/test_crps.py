"""CRPS and quantile loss against closed forms and definitions."""

import math

import numpy as np
import pytest

from kronos_stream.evaluation.crps import crps_of_normal, crps_of_paths, quantile_loss


def test_the_estimator_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    paths, y = rng.normal(size=(7, 3, 2)), rng.normal(size=(3, 2))
    pairs = np.abs(paths[:, None] - paths[None]).sum((0, 1))
    expected = np.abs(paths - y).mean(0) - pairs / (2 * 7 * 6)
    np.testing.assert_allclose(crps_of_paths(paths, y), expected, atol=1e-12)


@pytest.mark.parametrize("n", [2, 5, 100])
def test_the_estimator_is_fair_however_few_the_paths(n: int) -> None:
    rng = np.random.default_rng(n)
    y = np.full(200_000 // n, 0.7)
    made = crps_of_paths(rng.normal(0, 2, (n, len(y))), y)
    expected = float(crps_of_normal(np.array(2.0), np.array(0.7)))
    assert made.mean() == pytest.approx(expected, abs=4 * made.std() / math.sqrt(len(y)))


def test_one_path_is_a_point() -> None:
    assert crps_of_paths(np.array([[0.5]]), np.array([0.2])) == pytest.approx([0.3])


def test_the_normal_score_is_the_integral_of_its_definition() -> None:
    x = np.linspace(-20, 20, 400_001)
    cdf = np.array([0.5 * (1 + math.erf(v / (1.5 * math.sqrt(2)))) for v in x])
    integral = float(np.square(cdf - (x >= 0.4)).sum() * (x[1] - x[0]))
    assert float(crps_of_normal(np.array(1.5), np.array(0.4))) == pytest.approx(integral, abs=1e-4)


def test_a_normal_without_width_is_a_point() -> None:
    assert crps_of_normal(np.zeros(2), np.array([-0.3, 0.2])) == pytest.approx([0.3, 0.2])


def test_the_quantile_loss_weighs_both_sides() -> None:
    levels = np.array([0.1, 0.9])
    loss = quantile_loss(np.array([[0.0, 0.0], [0.0, 0.0]]), levels, np.array([1.0, -2.0]))
    assert loss == pytest.approx([(0.1 + 0.9) / 2, 2 * (0.9 + 0.1) / 2])


def test_the_quantile_loss_over_many_levels_is_half_the_crps() -> None:
    levels = (np.arange(2_000) + 0.5) / 2_000
    paths = np.sort(np.random.default_rng(3).normal(size=100_000))
    loss = quantile_loss(np.quantile(paths, levels)[None], levels, np.array([0.6]))
    assert 2 * loss[0] == pytest.approx(
        float(crps_of_normal(np.array(1.0), np.array(0.6))), rel=0.01
    )
