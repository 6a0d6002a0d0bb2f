"""AdamW, and how its learning rate goes.

torch's functional AdamW with state of our own: constructing one of torch's optimiser classes
imports its compiler, which takes seconds at every start.
"""

import math
from typing import Any, Final

import torch
from torch import nn
from torch.optim.adamw import adamw

from .settings import Optimisation

BETA1: Final = 0.9
BETA2: Final = 0.95
EPS: Final = 1e-8


def learning_rate(step: int, o: Optimisation) -> float:
    """Of step 0, 1, ...: up to `lr` in a straight line, down to `lr_end` of it in half a cosine."""
    if step < o.warmup:
        return o.lr * (step + 1) / o.warmup
    done = (step - o.warmup) / (o.steps - o.warmup)
    return o.lr * (o.lr_end + (1 - o.lr_end) * 0.5 * (1 + math.cos(math.pi * done)))


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019) of a module's parameters.

    Weights of products decay; embeddings, norms and biases do not.
    """

    def __init__(self, module: nn.Module, weight_decay: float) -> None:
        embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        free = [p.ndim < 2 or id(p) in embeddings for p in self.parameters]
        self.decays = [0.0 if is_free else weight_decay for is_free in free]
        self._means = [torch.zeros_like(p) for p in self.parameters]
        self._squares = [torch.zeros_like(p) for p in self.parameters]
        # One tensor each, in float32: the fused kernel counts in them.
        self._steps = [torch.zeros((), device=p.device) for p in self.parameters]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Descends along the gradients."""
        for decay in sorted(set(self.decays)):
            of_group = [i for i, d in enumerate(self.decays) if d == decay]
            lists = [
                [tensors[i] for i in of_group]
                for tensors in (self.parameters, self._means, self._squares, self._steps)
            ]
            parameters, means, squares, steps = lists
            adamw(
                parameters,
                [p.grad for p in parameters if p.grad is not None],
                means,
                squares,
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=BETA1,
                beta2=BETA2,
                lr=lr,
                weight_decay=decay,
                eps=EPS,
                maximize=False,
            )

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"means": self._means, "squares": self._squares, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for ours, name in (
            (self._means, "means"),
            (self._squares, "squares"),
            (self._steps, "steps"),
        ):
            for mine, saved in zip(ours, state[name], strict=True):
                mine.copy_(saved)
