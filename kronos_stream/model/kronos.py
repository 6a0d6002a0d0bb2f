"""Kronos: a causal transformer over pairs of ids, a coarse head and a fine head beneath it.

Shapes: ids s1, s2 (B, T); stamps (B, T, 5) = minute, hour, weekday (Monday 0), day, month of each
bar's open time; hidden states (B, T, d_model); logits (B, T, 2^bits).
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from .checkpoints import Bits, Checkpointed, Count, Share, arguments
from .transformer import Attention, Block, RMSNorm

FineHeadRotary = Literal["upstream", "trained", "none"]

STAMP_SIZES: Final = {"minute": 60, "hour": 24, "weekday": 7, "day": 32, "month": 13}
FINE_HEADS: Final = 4
_MINI: Final = (4, 256, 512, 4)


def sinusoids(size: int, width: int) -> Tensor:
    """Fixed embeddings (size, width): sines in the even columns, cosines in the odd ones
    (Vaswani et al. 2017)."""
    frequency = torch.exp(
        torch.arange(0, width, 2, dtype=torch.float32)
        * -(torch.log(torch.tensor(10_000.0)) / width)
    )
    angles = torch.arange(size, dtype=torch.float32)[:, None] * frequency
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]


class TokenEmbedding(nn.Module):
    """emb_s1·√d ‖ emb_s2·√d → fusion_proj."""

    def __init__(self, s1_bits: int, s2_bits: int, d_model: int) -> None:
        super().__init__()
        self.emb_s1 = nn.Embedding(2**s1_bits, d_model)
        self.emb_s2 = nn.Embedding(2**s2_bits, d_model)
        self.fusion_proj = nn.Linear(2 * d_model, d_model)
        self.scale = d_model**0.5

    def forward(self, s1: Tensor, s2: Tensor) -> Tensor:
        pair = torch.cat((self.emb_s1(s1) * self.scale, self.emb_s2(s2) * self.scale), dim=-1)
        out: Tensor = self.fusion_proj(pair)
        return out


class TimeEmbedding(nn.Module):
    """The sum of one embedding per time feature, learned or sinusoidal."""

    def __init__(self, d_model: int, *, learned: bool) -> None:
        super().__init__()
        for name, size in STAMP_SIZES.items():
            if learned:
                table = nn.Embedding(size, d_model)
            else:
                table = nn.Embedding(size, d_model, _weight=sinusoids(size, d_model))
                table.weight.requires_grad_(False)
            # Official fixed tables are saved as `minute_embed.emb.weight`.
            self.add_module(f"{name}_embed", table if learned else nn.ModuleDict({"emb": table}))
        self.learned = learned

    def forward(self, stamps: Tensor) -> Tensor:
        """(..., 5) integers → (..., d_model)."""
        total: Tensor | None = None
        for column, table in zip(stamps.long().unbind(-1), self._tables(), strict=True):
            total = table(column) if total is None else total + table(column)
        assert total is not None
        return total

    @torch.no_grad()
    def leave_out(self, features: Collection[str]) -> None:
        """Features (of STAMP_SIZES) that shall say nothing: each row of their tables becomes the
        mean row, and is trained no more."""
        for name, table in zip(STAMP_SIZES, self._tables(), strict=True):
            if name in features:
                table.weight.copy_(table.weight.mean(0).expand_as(table.weight))
                table.weight.requires_grad_(False)

    def _tables(self) -> Iterator[nn.Embedding]:
        parts: Iterable[Any] = self.children()
        return (part if self.learned else part["emb"] for part in parts)


class FineHead(nn.Module):
    """Cross attention from the chosen coarse id to the hidden states, always with four heads.

    Keys and values come from the normed hidden states and can be cached; rotation is the
    caller's choice, because checkpoints differ in it (see Kronos.fine_head_rotary).
    """

    def __init__(self, d_model: int, attn_dropout_p: float, resid_dropout_p: float) -> None:
        super().__init__()
        self.cross_attn = Attention(d_model, FINE_HEADS, None, attn_dropout_p, resid_dropout_p)
        self.norm = RMSNorm(d_model)

    def queries(self, embedded: Tensor, start: int | None) -> Tensor:
        """Un-scaled embeddings (B, T, d) → (B, 4, T, D), rotated from `start` unless None."""
        q = self.cross_attn.queries(embedded)
        return q if start is None else self.cross_attn.rotary(q, start)

    def keys_values(self, hidden: Tensor, start: int | None) -> tuple[Tensor, Tensor]:
        """Normed hidden states (B, T, d) → keys (rotated from `start` unless None), values."""
        k, v = self.cross_attn.keys_values(hidden)
        return (k if start is None else self.cross_attn.rotary(k, start)), v

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """norm(hidden + attention): hidden (B, T, d), attended (B, 4, T, D) → (B, T, d)."""
        out: Tensor = self.norm(hidden + self.cross_attn.merge(attended))
        return out


class Heads(nn.Module):
    """Projections to coarse and fine logits."""

    def __init__(self, s1_bits: int, s2_bits: int, d_model: int) -> None:
        super().__init__()
        self.proj_s1 = nn.Linear(d_model, 2**s1_bits)
        self.proj_s2 = nn.Linear(d_model, 2**s2_bits)


class Kronos(Checkpointed):
    """Arguments are the keys of the official config.json, and five of ours: `n_kv_heads` (grouped
    queries; absent: n_heads), `max_context` (bars; absent: 2048 for mini's shape, else 512),
    `fine_head_rotary` (how the fine head places its query and keys; absent: upstream),
    `tokenizer` (revision of the one whose ids it was trained on; absent: not known) and `interval`
    (of the bars it was trained on, such as 5m; absent: not known)."""

    def __init__(
        self,
        *,
        s1_bits: Bits,
        s2_bits: Bits,
        n_layers: Count,
        d_model: Count,
        n_heads: Count,
        ff_dim: Count,
        ffn_dropout_p: Share,
        attn_dropout_p: Share,
        resid_dropout_p: Share,
        token_dropout_p: Share,
        learn_te: bool,
        n_kv_heads: Count | None = None,
        max_context: Count | None = None,
        fine_head_rotary: FineHeadRotary | None = None,
        tokenizer: str | None = None,
        interval: str | None = None,
    ) -> None:
        super().__init__(arguments(locals()))
        self.s1_bits, self.s2_bits = s1_bits, s2_bits
        is_mini = (n_layers, d_model, ff_dim, n_heads) == _MINI
        self.max_context = max_context or (2_048 if is_mini else 512)
        self.fine_head_rotary: FineHeadRotary = fine_head_rotary or "upstream"
        self.trained_with = tokenizer
        self.interval = interval
        self.token_drop = nn.Dropout(token_dropout_p)
        self.embedding = TokenEmbedding(s1_bits, s2_bits, d_model)
        self.time_emb = TimeEmbedding(d_model, learned=learn_te)
        self.transformer = nn.ModuleList(
            Block(
                d_model,
                n_heads,
                ff_dim,
                n_kv_heads=n_kv_heads,
                ffn_dropout_p=ffn_dropout_p,
                attn_dropout_p=attn_dropout_p,
                resid_dropout_p=resid_dropout_p,
            )
            for _ in range(n_layers)
        )
        self.norm = RMSNorm(d_model)
        self.dep_layer = FineHead(d_model, attn_dropout_p, resid_dropout_p)
        self.head = Heads(s1_bits, s2_bits, d_model)
        self._initialise(d_model)

    def _initialise(self, d_model: int) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias) if module.bias is not None else None
            elif isinstance(module, nn.Embedding) and not name.endswith("_embed.emb"):
                nn.init.normal_(module.weight, std=d_model**-0.5)

    def embed(self, s1: Tensor, s2: Tensor, stamps: Tensor | None) -> Tensor:
        """Ids (B, T) and stamps (B, T, 5) → the first block's input (B, T, d)."""
        x: Tensor = self.embedding(s1, s2)
        if stamps is not None:
            x = x + self.time_emb(stamps)
        out: Tensor = self.token_drop(x)
        return out

    def hidden(self, s1: Tensor, s2: Tensor, stamps: Tensor | None = None) -> Tensor:
        """Ids (B, T) → normed hidden states (B, T, d)."""
        x = self.embed(s1, s2, stamps)
        for block in self.transformer:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    def coarse_logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states (..., d) → (..., 2^s1_bits)."""
        out: Tensor = self.head.proj_s1(hidden)
        return out

    def fine_states(self, hidden: Tensor, s1: Tensor) -> Tensor:
        """What the fine logits of every position are projected from (B, T, d), given the coarse
        ids (B, T) chosen there: causal, as in training."""
        start = None if self.fine_head_rotary == "none" else 0
        q = self.dep_layer.queries(self.embedding.emb_s1(s1), start)
        k, v = self.dep_layer.keys_values(hidden, start)
        attended = self.dep_layer.cross_attn.attend(q, k, v, causal=True)
        return self.dep_layer.finish(hidden, attended)

    def fine_logits(self, hidden: Tensor, s1: Tensor) -> Tensor:
        """Fine logits (B, T, 2^s2_bits) of every position, given its coarse id (B, T)."""
        out: Tensor = self.head.proj_s2(self.fine_states(hidden, s1))
        return out

    def fine_logits_last(self, hidden: Tensor, s1: Tensor) -> Tensor:
        """Fine logits (B, 2^s2_bits) after the last position, given its coarse id (B,): one query
        over all hidden states (B, T, d), rotated only where `fine_head_rotary` is `trained`."""
        rotated = self.fine_head_rotary == "trained"
        last = hidden.shape[1] - 1
        q = self.dep_layer.queries(self.embedding.emb_s1(s1[:, None]), last if rotated else None)
        k, v = self.dep_layer.keys_values(hidden, 0 if rotated else None)
        attended = self.dep_layer.cross_attn.attend(q, k, v, causal=False)
        out: Tensor = self.head.proj_s2(self.dep_layer.finish(hidden[:, -1:], attended))
        return out[:, 0]

    def forward(
        self,
        s1: Tensor,
        s2: Tensor,
        stamps: Tensor | None = None,
        s1_targets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Coarse and fine logits of every position, causal in every mode. The fine head sees
        `s1_targets` (B, T) where given, else coarse ids drawn from the coarse logits."""
        hidden = self.hidden(s1, s2, stamps)
        coarse = self.coarse_logits(hidden)
        if s1_targets is None:
            p = coarse.detach().float().softmax(-1)
            s1_targets = torch.multinomial(p.flatten(0, 1), 1).view(s1.shape)
        return coarse, self.fine_logits(hidden, s1_targets)
