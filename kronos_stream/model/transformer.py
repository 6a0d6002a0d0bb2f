"""The causal transformer that the tokenizer and Kronos share.

Shapes: B series, T positions, H heads, K key/value heads, D = head width; hidden states are
(B, T, d_model), queries (B, H, T, D), keys and values (B, K, T, D). Every block can be run whole
(`forward`) or in parts (`project`, then `finish`), so that a caller with a key/value cache of its
own does the same arithmetic.
"""

from functools import lru_cache
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROTARY_BASE: Final = 10_000.0


class RMSNorm(nn.Module):
    """x / rms(x) · weight, the root mean square in float32 (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


@lru_cache(maxsize=32)
def rotary_table(width: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, width) in float32 of the half-rotation (Su et al. 2021)."""
    # Made outside inference mode: a table first made by a forecast may serve training later.
    with torch.inference_mode(False), torch.no_grad():
        inv_freq = 1.0 / (ROTARY_BASE ** (torch.arange(0, width, 2, dtype=torch.float32) / width))
        angles = torch.arange(length, dtype=torch.float32)[:, None] * inv_freq[None, :]
        both = torch.cat((angles, angles), dim=-1)
        return both.cos().to(device), both.sin().to(device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the last axis of x (..., T, D) by tables (T, D), in float32."""
    left, right = x.float().chunk(2, dim=-1)
    turned = torch.cat((-right, left), dim=-1)
    return (x.float() * cos + turned * sin).to(x.dtype)


class Rotary(nn.Module):
    """Holds the buffer that official checkpoints carry; the tables are computed afresh, because a
    buffer would lose precision with the model's dtype."""

    inv_freq: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        exponent = torch.arange(0, width, 2, dtype=torch.float32) / width
        self.register_buffer("inv_freq", 1.0 / (ROTARY_BASE**exponent))
        self.width = width

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Rotates x (..., T, D), whose first position is `start`."""
        end = start + x.shape[-2]
        # Tables grow in powers of two, so that a growing context does not rebuild them each step.
        size = 1 << max(9, (end - 1).bit_length())
        cos, sin = rotary_table(self.width, size, x.device)
        return rotate(x, cos[start:end], sin[start:end])


class Attention(nn.Module):
    """Multi-head attention with biases; `n_kv_heads` below `n_heads` groups the queries.
    ValueError where the heads do not divide the width."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        attn_dropout_p: float = 0.0,
        resid_dropout_p: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads or n_heads
        self.head_width = d_model // n_heads
        if d_model % (2 * n_heads):
            raise ValueError(
                f"d_model must be an even multiple of the {n_heads} heads (n_heads, or the fine "
                f"head's four), because heads are rotated by halves, got {d_model}"
            )
        if n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads must divide n_heads {n_heads}, got {self.n_kv_heads}")
        kv_width = self.n_kv_heads * self.head_width
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, kv_width)
        self.v_proj = nn.Linear(d_model, kv_width)
        self.out_proj = nn.Linear(d_model, d_model)
        self.rotary = Rotary(self.head_width)
        self.attn_dropout_p = attn_dropout_p
        self.resid_dropout = nn.Dropout(resid_dropout_p)

    def queries(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → (B, H, T, D), not rotated."""
        return self._heads(self.q_proj(x), self.n_heads)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, d_model) → keys and values (B, K, T, D), not rotated."""
        keys = self._heads(self.k_proj(x), self.n_kv_heads)
        return keys, self._heads(self.v_proj(x), self.n_kv_heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
        """softmax(q kᵀ/√D) v → (B, H, T, D); causal: query i sees keys up to i."""
        dropout = self.attn_dropout_p if self.training else 0.0
        grouped = self.n_kv_heads != self.n_heads
        return F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=causal, enable_gqa=grouped
        )

    def merge(self, attended: Tensor) -> Tensor:
        """(B, H, T, D) → (B, T, d_model) through the output projection."""
        out: Tensor = self.resid_dropout(self.out_proj(attended.transpose(1, 2).flatten(2)))
        return out

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        return x.view(*x.shape[:-1], heads, self.head_width).transpose(1, 2)


class SwiGLU(nn.Module):
    """w2(silu(w1 x) · w3 x), without biases (Shazeer 2020)."""

    def __init__(self, d_model: int, ff_dim: int, dropout_p: float = 0.0) -> None:
        super().__init__()
        self.w1 = nn.Linear(d_model, ff_dim, bias=False)
        self.w3 = nn.Linear(d_model, ff_dim, bias=False)
        self.w2 = nn.Linear(ff_dim, d_model, bias=False)
        self.ffn_dropout = nn.Dropout(dropout_p)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ffn_dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))
        return out


class Block(nn.Module):
    """A pre-norm block: x + attention(norm1 x), then x + SwiGLU(norm2 x)."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        ff_dim: int,
        *,
        n_kv_heads: int | None = None,
        ffn_dropout_p: float = 0.0,
        attn_dropout_p: float = 0.0,
        resid_dropout_p: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = RMSNorm(d_model)
        self.self_attn = Attention(d_model, n_heads, n_kv_heads, attn_dropout_p, resid_dropout_p)
        self.norm2 = RMSNorm(d_model)
        self.ffn = SwiGLU(d_model, ff_dim, ffn_dropout_p)

    def project(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D), keys and values (B, K, T, D) of x, whose first position is
        `start`; queries and keys are rotated."""
        normed = self.norm1(x)
        keys, values = self.self_attn.keys_values(normed)
        rotary = self.self_attn.rotary
        queries = rotary(self.self_attn.queries(normed), start)
        return queries, rotary(keys, start), values

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows the attention: its output projection, both residuals, the feed-forward."""
        x = x + self.self_attn.merge(attended)
        out: Tensor = x + self.ffn(self.norm2(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → (B, T, d_model), causal."""
        q, k, v = self.project(x)
        return self.finish(x, self.self_attn.attend(q, k, v, causal=True))
