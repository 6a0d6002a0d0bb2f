"""Binary spherical quantization (Zhao et al. 2024): a vector on the unit sphere becomes its signs.

Coordinate j gives the bit u_j > 0; the first `s1_bits` bits are the coarse id, the rest the fine
id, each with its first bit lowest.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError


class Quantized(NamedTuple):
    """`codes` (B, T, D) are ±1/√D with straight-through gradients; `loss` is a scalar."""

    codes: Tensor
    loss: Tensor


class _Buffers(nn.Module):
    """The two buffers that official checkpoints carry; nothing is computed from them."""

    basis: Tensor
    group_basis: Tensor

    def __init__(self, bits: int, group_size: int) -> None:
        super().__init__()
        self.register_buffer("basis", 2 ** torch.arange(bits - 1, -1, -1))
        self.register_buffer("group_basis", 2 ** torch.arange(group_size - 1, -1, -1))


def ids_of_bits(bits: Tensor) -> Tensor:
    """Booleans (..., n) → ids (...), the first bit lowest."""
    weights = 2 ** torch.arange(bits.shape[-1], device=bits.device)
    return (bits.long() * weights).sum(-1)


def bits_of_ids(ids: Tensor, n: int) -> Tensor:
    """Ids (...) → booleans (..., n), the inverse of `ids_of_bits`."""
    masks = 2 ** torch.arange(n, device=ids.device)
    return (ids[..., None] & masks) != 0


class Quantizer(nn.Module):
    """Signs of the normalised vector, and the loss that trains them.

    With u the normalised input, D its width, s = sign(u), p = σ(4u/√D) and h the binary entropy:
    q = (u + sg(s − u))/√D and L = β·mean Σ(sg(q) − u)² + ζ(γ0·mean Σh(p) − γ·Σh(mean p)).
    """

    def __init__(
        self,
        s1_bits: int,
        s2_bits: int,
        *,
        beta: float,
        gamma0: float,
        gamma: float,
        zeta: float,
        group_size: int,
    ) -> None:
        super().__init__()
        self.bits = s1_bits + s2_bits
        if group_size < 1 or self.bits % group_size:
            raise ModelError(
                f"group_size: expected a divisor of s1_bits + s2_bits = {self.bits}, "
                f"got {group_size}"
            )
        self.beta, self.gamma0, self.gamma, self.zeta = beta, gamma0, gamma, zeta
        self.bsq = _Buffers(self.bits, group_size)

    def forward(self, z: Tensor, weights: Tensor | None = None) -> Quantized:
        """(B, T, D) → codes and loss. `weights` (B, T) say how much each bar counts in the loss's
        means; none: all alike."""
        # In float32 under mixed precision, too: the entropies' 1e-8 would vanish.
        u = F.normalize(z.float(), dim=-1)
        signs = torch.where(u > 0, 1.0, -1.0).to(u.dtype)
        codes = (u + (signs - u).detach()) * self.bits**-0.5
        return Quantized(codes, self._loss(u, codes, weights))

    def _loss(self, u: Tensor, codes: Tensor, weights: Tensor | None) -> Tensor:
        def mean(per_bar: Tensor) -> Tensor:
            """Over the bars of (B, T, ...)."""
            flat = per_bar.flatten(0, 1)
            if weights is None:
                return flat.mean(0)
            # Where no bar counts, the loss is 0.
            w = weights.flatten() / weights.sum().clamp(min=1e-8)
            total: Tensor = torch.tensordot(w, flat, dims=1)
            return total

        commitment = mean((codes.detach() - u).square().sum(-1))
        p = torch.sigmoid(4.0 * u * self.bits**-0.5)
        per_sample = mean(_entropy(p).sum(-1))
        of_codebook = _entropy(mean(p)).sum()
        entropy = self.gamma0 * per_sample - self.gamma * of_codebook
        return self.beta * commitment + self.zeta * entropy


def _entropy(p: Tensor) -> Tensor:
    eps = 1e-8
    return -p * torch.log(p + eps) - (1 - p) * torch.log(1 - p + eps)
