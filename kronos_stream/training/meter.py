"""Means of losses: of the steps since the last line of metrics, or of the validation windows."""

import math
import time

import torch
from torch import Tensor

from .losses import Losses
from .ranks import Ranks


class Meter:
    """Sums of a process's steps, left on the device until they are asked for."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._steps = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, losses: Losses, norm: Tensor) -> None:
        """One step, and the norm of its gradients before they were clipped."""
        self._steps += 1
        values = {"loss": losses.loss.detach(), **losses.parts, "grad_norm": norm}
        _add(self._sums, values)

    def skip(self, seconds: float) -> None:
        """What was no training."""
        self._begun += seconds

    def means(self, bars_a_step: int) -> dict[str, float]:
        """Of each part, and the bars per second."""
        means = {name: float(total) / self._steps for name, total in self._sums.items()}
        seconds = time.perf_counter() - self._begun
        return with_close_error(means) | {"bars_per_s": self._steps * bars_a_step / seconds}


class WeightedMeans:
    """Means of all processes' batches, each by the weight behind it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, losses: Losses) -> None:
        """One batch."""
        values = {"loss": losses.loss.detach(), **losses.parts}
        weighted = {name: value.double() * losses.weight for name, value in values.items()}
        _add(self._sums, {**weighted, "weight": losses.weight.double()})

    def means(self, ranks: Ranks) -> dict[str, float]:
        """To be called by every process."""
        totals = ranks.total(torch.stack(list(self._sums.values()))).tolist()
        *sums, weight = totals
        names = list(self._sums)[:-1]
        return with_close_error({n: total / weight for n, total in zip(names, sums, strict=True)})


def _add(sums: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums[name] + value if name in sums else value


def with_close_error(values: dict[str, float]) -> dict[str, float]:
    """A tokenizer's error on the close: in z, and as a share of the close's one-bar σ."""
    if "close_squared_error" not in values:
        return values
    rest = {name: v for name, v in values.items() if not name.startswith("close_squared")}
    error = math.sqrt(values["close_squared_error"])
    step = math.sqrt(values["close_squared_step"])
    return rest | {"close_error_z": error, "close_error_sigma": error / step if step else 0.0}
