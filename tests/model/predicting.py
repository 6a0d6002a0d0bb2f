"""A predictor of a small pair, and what it is asked."""

from typing import Any

import pandas as pd

from kronos_stream.model import KronosPredictor
from kronos_stream.model.frames import COLUMNS

from ..engine.requests import tiny_pair
from .peer import bars

STEPS = 4


def predictor(**changes: Any) -> KronosPredictor:
    return KronosPredictor(*tiny_pair(), device="cpu", **changes)


def frame(n: int = 24, seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame(bars(n, seed), columns=COLUMNS)


def times(n: int = 24, steps: int = STEPS) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Open times of the bars and of the horizon."""
    every = pd.date_range("2024-03-04 09:30", periods=n + steps, freq="5min")
    return every[:n], every[n:]
