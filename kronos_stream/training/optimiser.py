"""AdamW, and how its learning rate goes."""

import math
from typing import Final

import torch
from torch import nn

from .settings import Optimisation

BETAS: Final = (0.9, 0.95)


def learning_rate(step: int, o: Optimisation) -> float:
    """Of step 0, 1, ...: up to `lr` in a straight line, down to `lr_end` of it in half a cosine."""
    if step < o.warmup:
        return o.lr * (step + 1) / o.warmup
    done = (step - o.warmup) / (o.steps - o.warmup)
    return o.lr * (o.lr_end + (1 - o.lr_end) * 0.5 * (1 + math.cos(math.pi * done)))


def optimiser_of(module: nn.Module, o: Optimisation) -> torch.optim.Optimizer:
    """Weights of products decay; embeddings, norms and biases do not."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in module.parameters() if p.requires_grad]
    decaying = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    others = [p for p in trained if p.ndim < 2 or id(p) in embeddings]
    groups = [
        {"params": decaying, "weight_decay": o.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=o.lr, betas=BETAS, fused=True)
