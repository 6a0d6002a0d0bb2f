"""Are sampled futures like real ones? Two answers by small models of others.

Real and synthetic windows follow the very same origins: the bars that came, and one sampled path
(after Yoon et al. 2019, discriminative and predictive score). Models are fitted on earlier origins
and judged on later ones; origins whose bars reach over the cut are in neither part.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..wire.messages import CLOSE, HIGH, LOW, VOLUME
from .predictions import Array

TRAIN_SHARE: Final = 0.6
LEAST_STEPS: Final = 4
LEAST_WINDOWS: Final = 50
"""Of each part: with fewer a figure would say nothing."""


class Windows(NamedTuple):
    """R windows of H bars, each beside what was known when it began."""

    real: Array
    """(R, H, 6) the bars that came."""
    synthetic: Array
    """(R, H, 6) one sampled path."""
    last_close: Array
    """(R,)."""
    ewma: Array
    """(R,) EWMA standard deviation of a one-bar return."""
    time: NDArray[np.int64]
    """(R,) number of the origin's time."""


class Split(NamedTuple):
    """Which windows a model is fitted on, and which it is judged on: (R,) each."""

    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


def fidelity(windows: Windows, *, overlap: int, seed: int) -> dict[str, Any]:
    """Test error of a classifier that tells synthetic from real (0.5: it cannot), and accuracies
    of a small model trained on either kind and tested on real windows.

    `overlap` is the number of following origin times that a window reaches over.
    """
    steps = windows.real.shape[1]
    cut = int(np.quantile(windows.time, TRAIN_SHARE))
    split = Split(windows.time < cut - overlap, windows.time >= cut)
    found: dict[str, Any] = {"train_windows": int(split.train.sum())}
    found["test_windows"] = int(split.test.sum())
    if steps < LEAST_STEPS or min(found.values()) < LEAST_WINDOWS:
        return found | {
            "skipped": f"needs {LEAST_STEPS} steps and {LEAST_WINDOWS} windows in each part"
        }
    real, synthetic = _returns(windows.real, windows), _returns(windows.synthetic, windows)
    candles = _candles(windows.real, windows), _candles(windows.synthetic, windows)
    return found | {
        "classifier_error": {
            "returns": _error(_with_shape(real), _with_shape(synthetic), split, seed),
            "candles": _error(*candles, split, seed),
        },
        "train_on_synthetic_test_on_real": {
            "volatility_rises": _transfer(real, synthetic, split, _volatility_rises),
            "close_rises": _transfer(real, synthetic, split, _close_rises),
        },
    }


def _returns(bars: Array, windows: Windows) -> Array:
    """One-bar log returns (R, H) ÷ the EWMA standard deviation."""
    closes = np.concatenate((windows.last_close[:, None], bars[..., CLOSE]), axis=1)
    return np.diff(np.log(closes), axis=1) / _unit(windows)


def _candles(bars: Array, windows: Windows) -> Array:
    """The returns, with ranges in the same unit and volumes as a share of the window's: (R, 3H)."""
    ranges = np.log(bars[..., HIGH] / bars[..., LOW]) / _unit(windows)
    volume = bars[..., VOLUME]
    total = volume.sum(1, keepdims=True)
    shares = volume / np.where(total > 0, total, 1.0)
    return np.concatenate((_returns(bars, windows), ranges, shares), axis=1)


def _unit(windows: Windows) -> Array:
    return np.where(windows.ewma > 0, windows.ewma, 1.0)[:, None]


def _with_shape(returns: Array) -> Array:
    """The returns, and what their order hides: spread, extremes, autocorrelation of r and |r|."""

    def lagged(x: Array) -> Array:
        x = x - x.mean(1, keepdims=True)
        squares = np.square(x).sum(1)
        return np.asarray((x[:, 1:] * x[:, :-1]).sum(1) / np.where(squares > 0, squares, 1.0))

    size = np.abs(returns)
    more = (returns.std(1), size.max(1), size.mean(1), lagged(returns), lagged(size))
    return np.column_stack((returns, *more))


def _error(real: Array, synthetic: Array, split: Split, seed: int) -> float:
    def both(chosen: NDArray[np.bool_]) -> tuple[Array, NDArray[np.int64]]:
        x = np.concatenate((real[chosen], synthetic[chosen]))
        return x, np.repeat(np.array([0, 1]), int(chosen.sum()))

    model = HistGradientBoostingClassifier(max_iter=100, random_state=seed)
    model.fit(*both(split.train))
    return float(1 - model.score(*both(split.test)))


def _volatility_rises(returns: Array) -> NDArray[np.int64]:
    """Whether the second half of the window is more volatile than the first."""
    half = returns.shape[1] // 2
    squares = np.square(returns)
    return np.asarray(squares[:, half:].mean(1) > squares[:, :half].mean(1), np.int64)


def _close_rises(returns: Array) -> NDArray[np.int64]:
    """Whether the close rises over the second half."""
    return np.asarray(returns[:, returns.shape[1] // 2 :].sum(1) > 0, np.int64)


def _transfer(
    real: Array,
    synthetic: Array,
    split: Split,
    target: Callable[[Array], NDArray[np.int64]],
) -> dict[str, float | None]:
    """Accuracy on later real windows of a logistic regression that sees a window's first half and
    was trained on synthetic (tstr) or on real (trtr) windows; the larger class's share beside."""
    half = real.shape[1] // 2

    def features(returns: Array) -> Array:
        seen = returns[:, :half]
        return np.column_stack((seen, np.abs(seen), np.log1p(np.square(seen).sum(1))))

    def accuracy(windows: Array) -> float | None:
        labels = target(windows[split.train])
        if len(np.unique(labels)) < 2:
            return None
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
        model.fit(features(windows[split.train]), labels)
        return float(model.score(features(real[split.test]), target(real[split.test])))

    share = float(target(real[split.test]).mean())
    return {
        "tstr": accuracy(synthetic),
        "trtr": accuracy(real),
        "larger_class": max(share, 1 - share),
    }
