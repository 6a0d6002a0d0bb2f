"""Real against real cannot be told apart; a wrong spread can."""

import numpy as np
import pytest

from kronos_stream.evaluation.fidelity import Windows, fidelity

R, H = 400, 8


def bars(rng: np.random.Generator, scale: float = 1.0) -> np.ndarray:
    """Windows of bars whose first half's volatility goes on in the second."""
    sigma = 0.002 * np.exp(rng.normal(0, 0.7, (R, 1)))
    log = np.cumsum(scale * sigma * rng.normal(size=(R, H)), axis=1)
    close = 100 * np.exp(log)
    volume = rng.uniform(1, 2, (R, H))
    return np.stack((close, close * 1.001, close * 0.999, close, volume, volume * close), axis=-1)


def windows(real: np.ndarray, synthetic: np.ndarray) -> Windows:
    return Windows(real, synthetic, np.full(R, 100.0), np.full(R, 0.002), np.arange(R) // 2)


def test_the_same_distribution_cannot_be_told_apart() -> None:
    rng = np.random.default_rng(0)
    found = fidelity(windows(bars(rng), bars(rng)), overlap=2, seed=7)
    assert found["classifier_error"]["returns"] == pytest.approx(0.5, abs=0.1)
    transfer = found["train_on_synthetic_test_on_real"]["volatility_rises"]
    assert transfer["tstr"] == pytest.approx(transfer["trtr"], abs=0.15)
    assert 0.5 <= transfer["larger_class"] <= 0.7
    assert found["train_windows"] < 0.6 * R
    assert found["test_windows"] == pytest.approx(0.4 * R, abs=4)


def test_a_wrong_spread_is_told() -> None:
    rng = np.random.default_rng(1)
    found = fidelity(windows(bars(rng), bars(rng, scale=0.05)), overlap=2, seed=7)
    assert found["classifier_error"]["returns"] < 0.15
    assert found["classifier_error"]["candles"] < 0.15


def test_few_windows_give_no_figure() -> None:
    rng = np.random.default_rng(0)
    few = Windows(*(part[:20] for part in windows(bars(rng), bars(rng))))
    assert "50 windows" in fidelity(few, overlap=1, seed=7)["skipped"]
