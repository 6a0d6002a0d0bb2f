"""The losses of both stages, each a module around what is trained.

Both take z (B, T, 6), stamps (B, T, 5) and weights (B, T), and give the loss and its parts: means
over the bars that count. Sources: Kronos (design 6.1) and BSQ (Zhao et al. 2024) for the
quantizer's part.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.kronos import Kronos
from ..model.tokenizer import KronosTokenizer
from ..wire.messages import CLOSE

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


class Losses(NamedTuple):
    """The scalar to descend, its parts without gradients, and the sum of weights behind them."""

    loss: Tensor
    parts: dict[str, Tensor]
    weight: Tensor


def weighted_mean(per_bar: Tensor, weights: Tensor) -> Tensor:
    """Σ w·x / Σ w; 0 where nothing counts."""
    return (per_bar * weights).sum() / weights.sum().clamp(min=1e-8)


class TokenizerLoss(nn.Module):
    """(MSE coarse-only + MSE full + L)/2."""

    def __init__(self, tokenizer: KronosTokenizer, channel_weights: Sequence[float]) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        shares = torch.tensor(channel_weights, dtype=torch.float32)
        self._shares = shares / shares.sum()

    def forward(self, z: Tensor, stamps: Tensor, weights: Tensor) -> Losses:
        """Stamps are not looked at: a tokenizer knows no time."""
        out = self.tokenizer(z, weights)
        shares = self._shares.to(z.device)

        def error(reconstruction: Tensor) -> Tensor:
            per_bar = ((reconstruction.float() - z).square() * shares).sum(-1)
            return weighted_mean(per_bar, weights)

        coarse, full = error(out.recon_coarse), error(out.recon_full)
        with torch.no_grad():
            off = out.recon_full[..., CLOSE].float() - z[..., CLOSE]
            step = z[:, 1:, CLOSE] - z[:, :-1, CLOSE]
            parts = {
                "mse_coarse": coarse.detach(),
                "mse_full": full.detach(),
                "quantizer": out.loss.detach(),
                "reconstruction": (coarse + full).detach() / 2,
                "close_squared_error": weighted_mean(off.square(), weights),
                "close_squared_step": weighted_mean(step.square(), weights[:, 1:]),
            }
        return Losses((coarse + full + out.loss) / 2, parts, weights.sum())


class ModelLoss(nn.Module):
    """(CE coarse + CE fine)/2 of each next bar.

    `encode` is a tokenizer's; it is no part of the module, so that its weights are neither trained
    nor saved with it. The fine head is given the true coarse id, or, in training, one that is
    drawn from the coarse logits.
    """

    def __init__(
        self, model: Kronos, encode: Encode, condition: Literal["true", "sampled"] = "true"
    ) -> None:
        super().__init__()
        self.model = model
        self._encode = encode
        self._condition = condition

    def forward(self, z: Tensor, stamps: Tensor, weights: Tensor) -> Losses:
        # In float32 whatever the precision of training, as the engine encodes.
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            s1, s2 = self._encode(z)
        hidden = self.model.hidden(s1[:, :-1], s2[:, :-1], stamps[:, :-1])
        # What does not count is not projected: logits of 2^bits values are the widest thing here.
        counted = weights[:, 1:] > 0
        w = weights[:, 1:][counted]
        coarse = self.model.coarse_logits(hidden[counted])
        given = s1[:, 1:]
        if self._condition == "sampled" and self.training:
            p = coarse.detach().float().softmax(-1)
            given = given.clone()
            given[counted] = torch.multinomial(p, 1)[:, 0]
        fine = self.model.head.proj_s2(self.model.fine_states(hidden, given)[counted])
        losses = [
            weighted_mean(F.cross_entropy(logits.float(), ids[counted], reduction="none"), w)
            for logits, ids in ((coarse, s1[:, 1:]), (fine, s2[:, 1:]))
        ]
        parts = {"loss_s1": losses[0].detach(), "loss_s2": losses[1].detach()}
        return Losses((losses[0] + losses[1]) / 2, parts, w.sum())
