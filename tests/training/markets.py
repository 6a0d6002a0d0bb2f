"""Seeded bars files, banks of them, and settings small enough for seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos_stream.bars.calendar import AlwaysOpen
from kronos_stream.training.segments import Bank, read_bank
from kronos_stream.training.settings import Cleaning, Optimisation, Sampling, TrainSettings
from tests.samples import START_MS, STEP_MS

WINDOW = 32
TINY = {"n_layers": 1, "d_model": 16, "n_heads": 2, "ff_dim": 24}


def frame(n: int, seed: int = 0, start: int = START_MS, price: float = 100.0) -> pd.DataFrame:
    """A random walk of n consecutive bars."""
    rng = np.random.default_rng(seed)
    close = price * np.exp(np.cumsum(rng.normal(0, 0.002, n)))
    opens = np.concatenate(([price], close[:-1]))
    return pd.DataFrame(
        {
            "open_time": start + STEP_MS * np.arange(n),
            "open": opens,
            "high": np.maximum(opens, close) * 1.001,
            "low": np.minimum(opens, close) * 0.999,
            "close": close,
            "volume": rng.lognormal(3.0, 0.7, n),
        }
    )


def write(folder: Path, **frames: pd.DataFrame) -> Path:
    """One parquet file a symbol."""
    folder.mkdir(exist_ok=True)
    for symbol, bars in frames.items():
        bars.to_parquet(folder / f"{symbol}.parquet", index=False)
    return folder


def bank_of(folder: Path, min_segment: int = WINDOW) -> Bank:
    """The bank of a folder on the calendar 24/7."""
    rules = Cleaning(min_segment=min_segment)
    return read_bank([folder], "5m", AlwaysOpen(STEP_MS), rules).bank


def sampling(**changes: Any) -> Sampling:
    """Windows of 32 bars."""
    given = {"window": WINDOW, "split_low": 12, "split_high": 28, "horizon": 4}
    return Sampling(**(given | {"context_loss_weight": 0.0} | changes))


def settings(**changes: Any) -> TrainSettings:
    """A run of 12 steps."""
    steps = {"steps": 12, "batch": 4, "lr": 1e-2, "warmup": 2}
    of_steps = {k: changes.pop(k) for k in list(changes) if k in Optimisation.__struct_fields__}
    given = {
        "stage": "model",
        "cleaning": Cleaning(min_segment=WINDOW),
        "sampling": sampling(),
        "optimisation": Optimisation(**(steps | of_steps)),
        "validate_every": 4,
        "validation_windows": 6,
        "shape": {},
    }
    return TrainSettings(**(given | changes))
