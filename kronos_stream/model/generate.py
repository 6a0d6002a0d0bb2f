"""The plain rollout: every step runs the whole window anew. The reference for the engine, and
what the pandas-facing predictor uses once the context is full."""

import torch
from torch import Tensor

from .kronos import Kronos
from .sampling import Sampling, draw
from .tokenizer import KronosTokenizer


@torch.no_grad()
def generate(
    model: Kronos,
    tokenizer: KronosTokenizer,
    x: Tensor,
    stamps: Tensor,
    u: Tensor,
    *,
    sampling: Sampling,
    max_context: int,
) -> Tensor:
    """Sampled continuations of normalised bars.

    x (B, T, 6); stamps (B, T + steps, 5); u (B, paths, steps, 2) → (B, paths, steps, 6),
    normalised. A window longer than `max_context` loses its oldest bars at each step.
    """
    batch, paths, steps = u.shape[:3]
    length = x.shape[1]
    s1, s2 = (ids.repeat_interleave(paths, 0) for ids in tokenizer.encode(x))
    stamps = stamps.repeat_interleave(paths, 0)
    flat = u.flatten(0, 1)
    for step in range(steps):
        end = length + step
        start = max(0, end - max_context)
        hidden = model.hidden(s1[:, start:], s2[:, start:], stamps[:, start:end])
        coarse = draw(model.coarse_logits(hidden[:, -1]), flat[:, step, 0], sampling)
        fine = draw(model.fine_logits_last(hidden, coarse), flat[:, step, 1], sampling)
        s1 = torch.cat((s1, coarse[:, None]), dim=1)
        s2 = torch.cat((s2, fine[:, None]), dim=1)
    start = max(0, length + steps - max_context)
    z = tokenizer.decode(s1[:, start:], s2[:, start:])[:, -steps:]
    return z.view(batch, paths, steps, -1)
