"""Baselines: known values, and no look at what comes."""

import numpy as np
import pytest

from kronos_stream.bars.calendar import calendar_of
from kronos_stream.evaluation.baselines import (
    context_returns,
    ewma_variance,
    persistence,
    random_walk,
    realised_returns,
    seasonal_naive,
)
from kronos_stream.evaluation.garch import garch
from kronos_stream.evaluation.origins import Origin
from kronos_stream.evaluation.predictions import Predictions
from kronos_stream.evaluation.series import Series
from tests.samples import STEP_MS

from .samples import CALENDAR, perturbed, series_of

DAY = 288
SESSION = 78


def everything(series: list[Series], origins: list[Origin], y: np.ndarray) -> list[Predictions]:
    returns = context_returns(series, origins, 25)
    return [
        persistence(y),
        random_walk(returns, y),
        garch(series, origins, returns, y)[0],
        seasonal_naive(series, origins, CALENDAR, y),
    ]


def test_no_baseline_sees_what_comes() -> None:
    row = 4 * DAY
    series, origins = [series_of("AAA", 5 * DAY)], [Origin(0, 0, row - 300), Origin(0, 1, row)]
    y = realised_returns(series, origins, 4)
    made = everything(series, origins, y)
    again = everything([perturbed(series[0], row)], origins, y)
    for one, other in zip(made, again):
        assert one.given().all()
        for field in ("crps", "mean", "quantiles", "spread", "volatility"):
            assert np.array_equal(getattr(one, field), getattr(other, field)), (one.name, field)


def test_the_walk_has_the_variance_of_the_recursion() -> None:
    returns = np.random.default_rng(0).normal(0, 0.01, (1, 600))
    v = returns[0, 0] ** 2
    for r in returns[0, 1:]:
        v = 0.97 * v + 0.03 * r * r
    assert ewma_variance(returns)[0] == pytest.approx(v, rel=1e-4)
    made = random_walk(returns, np.zeros((1, 9)))
    assert made.spread[0] == pytest.approx(np.sqrt(v * np.arange(1, 10)), rel=1e-4)


def test_persistence_scores_the_move() -> None:
    y = np.array([[0.1, -0.3]])
    assert persistence(y).crps.tolist() == [[0.1, 0.3]]


def test_realised_returns_begin_at_the_last_close() -> None:
    series = series_of("AAA", 40)
    close = series.values[:, 3]
    y = realised_returns([series], [Origin(0, 0, 30)], 2)
    assert y[0] == pytest.approx([np.log(close[31] / close[30]), np.log(close[32] / close[30])])


def test_the_seasonal_paths_are_those_of_earlier_days() -> None:
    series = series_of("AAA", 4 * DAY)
    row = 3 * DAY + 10
    made = seasonal_naive([series], [Origin(0, 0, row)], CALENDAR, np.zeros((1, 4)))
    log = series.log_closes()
    days = [row - k * DAY for k in (1, 2, 3)]
    expected = np.mean([log[d + 1 : d + 5] - log[d] for d in days], axis=0)
    assert made.mean[0] == pytest.approx(expected)


def test_without_two_days_there_is_no_seasonal_forecast() -> None:
    series = series_of("AAA", 3 * DAY)
    rows = [Origin(0, 0, 2 * DAY - 1), Origin(0, 1, 2 * DAY)]
    made = seasonal_naive([series], rows, CALENDAR, np.zeros((2, 4)))
    assert made.given().tolist() == [False, True]
    gap = series_of("AAA", 3 * DAY, without=(DAY + 2,))
    rows = [Origin(0, 0, 2 * DAY - 1)]
    assert not seasonal_naive([gap], rows, CALENDAR, np.zeros((1, 4))).given().any()


def test_the_same_time_of_day_is_the_exchanges() -> None:
    calendar = calendar_of("XNYS", STEP_MS)
    # From 09:30 of a Monday in New York on; summer time begins on the next Sunday.
    times = [int(np.datetime64("2024-03-04T14:30", "ms").astype(np.int64))]
    while len(times) < 8 * SESSION:
        times.append(calendar.next_open(times[-1]))
    open_times = np.array(times)
    plain = series_of("AAA", len(times))
    series = plain._replace(open_times=open_times, places=calendar.places(open_times))
    row = 7 * SESSION
    made = seasonal_naive([series], [Origin(0, 0, row)], calendar, np.zeros((1, 4)))
    log = series.log_closes()
    days = [row - k * SESSION for k in range(1, 8)]
    expected = np.mean([log[d + 1 : d + 5] - log[d] for d in days], axis=0)
    assert made.mean[0] == pytest.approx(expected)


def test_a_path_of_earlier_days_ends_before_the_origin() -> None:
    series = series_of("AAA", 5 * DAY)
    y = np.zeros((1, DAY + 1))
    row = 3 * DAY + 100
    made = seasonal_naive([series], [Origin(0, 0, row)], CALENDAR, y)
    again = seasonal_naive([perturbed(series, row)], [Origin(0, 0, row)], CALENDAR, y)
    assert made.given().all()
    assert np.array_equal(made.mean, again.mean)


def test_garch_follows_a_simulated_one() -> None:
    omega, alpha, beta, n = 0.05, 0.10, 0.85, 2_400
    rng = np.random.default_rng(0)
    variance = np.ones(n + 1)
    shocks = rng.normal(size=n)
    for t in range(n):
        variance[t + 1] = omega + variance[t] * (alpha * shocks[t] ** 2 + beta)
    close = 100 * np.exp(0.002 * np.cumsum(np.sqrt(variance[:-1]) * shocks))
    plain = series_of("AAA", n)
    series = [plain._replace(values=np.column_stack((*[close] * 4, close, close)))]
    origins = [Origin(0, k, row) for k, row in enumerate(range(2_000, 2_300, 20))]
    y = realised_returns(series, origins, 4)
    made, counts = garch(series, origins, context_returns(series, origins, 100), y)
    known = 0.002 * np.sqrt(variance[[o.row + 1 for o in origins]])
    assert counts == {"fits": 1, "failed": 0}
    assert made.spread[:, 0] == pytest.approx(known, rel=0.2)


def test_where_nothing_moves_garch_falls_back() -> None:
    flat = series_of("AAA", 400)
    flat = flat._replace(values=np.ones_like(flat.values))
    origins = [Origin(0, 0, 350)]
    returns = context_returns([flat], origins, 25)
    made, counts = garch([flat], origins, returns, np.zeros((1, 4)))
    assert counts == {"fits": 1, "failed": 1}
    assert np.isfinite(made.crps).all()
