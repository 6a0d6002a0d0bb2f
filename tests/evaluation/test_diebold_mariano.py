"""The test of equal scores against sums written out."""

import math

import numpy as np
import pytest
from scipy import stats

from kronos_stream.evaluation.diebold_mariano import (
    diebold_mariano,
    long_run_variance,
    mean_by_time,
)


def test_the_variance_is_newey_and_wests() -> None:
    x = [1.0, 3.0, 2.0, 6.0]
    # Mean 3; deviations −2, 0, −1, 3: γ₀ = 14/4, γ₁ = (0 + 0 − 3)/4, γ₂ = (2 + 0)/4.
    expected = 14 / 4 + 2 * (2 / 3) * (-3 / 4) + 2 * (1 / 3) * (2 / 4)
    assert long_run_variance(np.array(x), 2) == pytest.approx(expected)


def test_the_statistic_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(0.3, 1, 60)
    x[1:] += 0.5 * x[:-1]
    made = diebold_mariano(x, overlap=4)
    n, mean, h = 60, sum(x) / 60, 5
    gamma = [sum((x[t] - mean) * (x[t - k] - mean) for t in range(k, n)) / n for k in range(5)]
    variance = gamma[0] + 2 * sum((1 - k / 5) * gamma[k] for k in range(1, 5))
    harvey = math.sqrt((n + 1 - 2 * h + h * (h - 1) / n) / n)
    assert made.lags == 4
    assert made.statistic == pytest.approx(mean / math.sqrt(variance / n) * harvey)
    assert made.p_value == pytest.approx(2 * stats.t.sf(abs(made.statistic), n - 1))


def test_a_few_lags_are_always_taken() -> None:
    assert diebold_mariano(np.random.default_rng(0).normal(size=500), overlap=0).lags == 5


def test_the_better_one_has_the_lower_score() -> None:
    x = np.random.default_rng(0).normal(-1, 1, 200)
    better, worse = diebold_mariano(x, overlap=0), diebold_mariano(-x, overlap=0)
    assert better.difference < 0
    assert better.statistic == pytest.approx(-worse.statistic)
    assert better.p_value == pytest.approx(worse.p_value)
    assert better.p_value < 1e-6


def test_equal_forecasters_are_rejected_about_as_often_as_said() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(size=(500, 301))
    overlapping = noise[:, 1:] + noise[:, :-1]
    rejected = [diebold_mariano(x, overlap=1).p_value < 0.05 for x in overlapping]
    assert 0.02 < np.mean(rejected) < 0.09


def test_scores_that_never_differ_have_no_statistic() -> None:
    made = diebold_mariano(np.zeros(20), overlap=0)
    assert made.difference == 0
    assert math.isnan(made.statistic)


def test_the_symbols_of_a_time_are_one_observation() -> None:
    made = mean_by_time(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 2]))
    assert made.tolist() == [2.0, 5.0]
