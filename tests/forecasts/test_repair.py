"""Sampled candles become possible ones, and only what is impossible is changed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from kronos_stream.forecasts.repair import PRICE_FLOOR, repair
from kronos_stream.wire.messages import AMOUNT, CHANNELS, CLOSE, HIGH, LOW, OPEN, VOLUME

LAST_CLOSE = 100.0
PATHS = arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.just(6)),
    elements=st.floats(-1e6, 1e6),
)


def _candle(**changes: float) -> NDArray[np.float64]:
    good = {"open": 100.0, "high": 103.0, "low": 98.0, "close": 101.0, "volume": 5.0, "amount": 9.0}
    return np.array([[[(good | changes)[name] for name in CHANNELS]]])


def _possible(p: NDArray[np.float64]) -> NDArray[np.bool_]:
    body = p[..., [OPEN, CLOSE]]
    least = LAST_CLOSE * PRICE_FLOOR
    return (
        (p[..., HIGH] >= body.max(-1))
        & (p[..., LOW] <= body.min(-1))
        & (p[..., OPEN : CLOSE + 1] >= least).all(-1)
        & (p[..., [VOLUME, AMOUNT]] >= 0).all(-1)
    )


@given(PATHS)
def test_every_candle_is_possible_afterwards(paths: NDArray[np.float64]) -> None:
    assert _possible(repair(paths, LAST_CLOSE).paths).all()


@given(PATHS)
def test_only_impossible_candles_are_changed_and_their_share_is_told(
    paths: NDArray[np.float64],
) -> None:
    before, possible = paths.copy(), _possible(paths)
    made = repair(paths, LAST_CLOSE)
    assert (paths == before).all()
    assert (made.paths[possible] == paths[possible]).all()
    assert made.share == pytest.approx((~possible).mean())


@given(PATHS)
def test_a_repair_of_a_repair_changes_nothing(paths: NDArray[np.float64]) -> None:
    once = repair(paths, LAST_CLOSE).paths
    again = repair(once, LAST_CLOSE)
    assert again.share == 0
    assert (again.paths == once).all()


@given(PATHS)
def test_the_body_and_positive_volumes_are_kept(paths: NDArray[np.float64]) -> None:
    made = repair(paths, LAST_CLOSE).paths
    for channel, least in ((OPEN, LAST_CLOSE * PRICE_FLOOR), (CLOSE, LAST_CLOSE * PRICE_FLOOR)):
        assert (made[..., channel] == np.maximum(paths[..., channel], least)).all()
    for channel in (VOLUME, AMOUNT):
        assert (made[..., channel] == np.maximum(paths[..., channel], 0)).all()


@pytest.mark.parametrize(
    ("changes", "repaired"),
    [
        ({"high": 100.5}, {"high": 101.0}),
        ({"low": 100.5}, {"low": 100.0}),
        ({"high": 98.0, "low": 103.0}, {"high": 103.0, "low": 98.0}),
        ({"volume": -1.0}, {"volume": 0.0}),
        ({"amount": -1.0}, {"amount": 0.0}),
        ({"low": -5.0}, {"low": LAST_CLOSE * PRICE_FLOOR}),
        ({}, {}),
    ],
)
def test_single_faults(changes: dict[str, float], repaired: dict[str, float]) -> None:
    made = repair(_candle(**changes), LAST_CLOSE)
    assert made.paths.tolist() == _candle(**(changes | repaired)).tolist()
    assert made.share == float(bool(changes))


def test_the_share_is_of_candles_and_not_of_numbers() -> None:
    bad = _candle(high=1.0, volume=-1.0, amount=-1.0)
    paths = np.concatenate((bad, _candle(), _candle(), _candle()), axis=1)
    assert repair(paths, LAST_CLOSE).share == 0.25
