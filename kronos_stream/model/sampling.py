"""Logits to token ids, from uniforms made beforehand: same uniforms, same tokens."""

from typing import Final

import torch
from msgspec import Struct
from torch import Tensor

from ..errors import InputError

LIKELIEST: Final = 128
LEAST_TEMPERATURE: Final = 1e-6
"""Logits over less would not be float32's any more; it is greedy long before."""


class Sampling(Struct, frozen=True, kw_only=True):
    """Order: temperature, top_k (0: all), renormalise, top_p = smallest set with mass ≥ p, at
    least one. top_k = 1 is greedy."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= LEAST_TEMPERATURE:
            raise InputError(
                f"temperature: expected a number of {LEAST_TEMPERATURE} or more, got "
                f"{self.temperature!r}"
            )
        if self.top_k < 0:
            raise InputError(f"top_k: expected an integer of 0 or more, got {self.top_k!r}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p: expected a number in (0, 1], got {self.top_p!r}")


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits (..., V) → filtered and renormalised probabilities (..., V), float32."""
    scaled = logits.float() / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[-1]:
        least = scaled.topk(sampling.top_k, dim=-1).values[..., -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    p = scaled.softmax(-1)
    if sampling.top_p < 1.0:
        p = p * _nucleus(p, sampling.top_p)
        p = p / p.sum(-1, keepdim=True)
    return p


def _nucleus(p: Tensor, mass: float) -> Tensor:
    """Which of the probabilities (..., V) are the smallest set that holds `mass`, at least one; of
    equal ones the lower ids."""
    ordered = p.topk(min(LIKELIEST, p.shape[-1]), dim=-1).values
    # The few likeliest hold it nearly always, and are found in a quarter of the time of a sort. A
    # GPU must not wait for the answer, and sorts fast.
    if p.is_cuda or bool((ordered.sum(-1) < mass).any()):
        ordered = p.sort(dim=-1, descending=True).values
    needed = ordered.cumsum(-1) - ordered < mass
    count = needed.sum(-1, keepdim=True).clamp_min_(1)
    least = ordered.gather(-1, count - 1)
    kept = p >= least
    # More only where some are equal to the least, which few rows have.
    if p.is_cuda or bool((kept.sum(-1, keepdim=True) > count).any()):
        above, equal = p > least, p == least
        kept = above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    return kept


def draw(logits: Tensor, u: Tensor, sampling: Sampling) -> Tensor:
    """Logits (..., V) and uniforms (...) → ids (...): the first id whose cumulative probability,
    in id order, exceeds u."""
    if sampling.top_k == 1:
        return logits.argmax(-1)
    mass = probabilities(logits, sampling).cumsum(-1)
    # Rounding may leave the total a little under 1: scale u, so that it never passes the end.
    target = u[..., None] * mass[..., -1:]
    ids = torch.searchsorted(mass, target, right=True).squeeze(-1)
    return ids.clamp_max_(logits.shape[-1] - 1)
