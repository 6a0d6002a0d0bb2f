"""The tokenizer: normalised K-lines to pairs of ids (coarse, fine) and back.

x (B, T, 6) → embed → encoder blocks → quant_embed → signs; the way back is post_quant_embed →
decoder blocks → head. Encoder and decoder are causal, so both can be cached.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..wire.messages import CHANNELS
from .checkpoints import Bits, Checkpointed, Count, Share, arguments
from .quantizer import Quantizer, bits_of_ids, ids_of_bits
from .transformer import Block


class TokenizerOutput(NamedTuple):
    """What training needs: both reconstructions (B, T, 6), the quantizer's loss, the codes
    (B, T, D) and the full ids (B, T)."""

    recon_coarse: Tensor
    recon_full: Tensor
    loss: Tensor
    codes: Tensor
    ids: Tensor


class KronosTokenizer(Checkpointed):
    """Arguments are the keys of the official config.json. `n_enc_layers` and `n_dec_layers` build
    one block fewer than they say, as the official checkpoints have it."""

    def __init__(
        self,
        *,
        d_in: Count,
        d_model: Count,
        n_heads: Count,
        ff_dim: Count,
        n_enc_layers: Count,
        n_dec_layers: Count,
        ffn_dropout_p: Share,
        attn_dropout_p: Share,
        resid_dropout_p: Share,
        s1_bits: Bits,
        s2_bits: Bits,
        beta: float,
        gamma0: float,
        gamma: float,
        zeta: float,
        group_size: Count,
    ) -> None:
        super().__init__(arguments(locals()))
        if d_in != len(CHANNELS):
            raise ValueError(f"d_in must be {len(CHANNELS)} ({', '.join(CHANNELS)}), got {d_in}")
        self.s1_bits, self.s2_bits = s1_bits, s2_bits
        self.bits = s1_bits + s2_bits
        self.d_in = d_in

        def blocks(named: int) -> nn.ModuleList:
            return nn.ModuleList(
                Block(
                    d_model,
                    n_heads,
                    ff_dim,
                    ffn_dropout_p=ffn_dropout_p,
                    attn_dropout_p=attn_dropout_p,
                    resid_dropout_p=resid_dropout_p,
                )
                for _ in range(named - 1)
            )

        self.embed = nn.Linear(d_in, d_model)
        self.head = nn.Linear(d_model, d_in)
        self.encoder = blocks(n_enc_layers)
        self.decoder = blocks(n_dec_layers)
        self.quant_embed = nn.Linear(d_model, self.bits)
        self.post_quant_embed_pre = nn.Linear(s1_bits, d_model)
        self.post_quant_embed = nn.Linear(self.bits, d_model)
        self.tokenizer = Quantizer(
            s1_bits,
            s2_bits,
            beta=beta,
            gamma0=gamma0,
            gamma=gamma,
            zeta=zeta,
            group_size=group_size,
        )

    def forward(self, x: Tensor, weights: Tensor | None = None) -> TokenizerOutput:
        """Normalised bars (B, T, 6) → both reconstructions, loss, codes, full ids. `weights` (B, T)
        say how much each bar counts in the quantizer's loss; none: all alike."""
        codes, loss = self.tokenizer(self.latents(x), weights)
        coarse = self._decoded(self.post_quant_embed_pre(codes[..., : self.s1_bits]))
        full = self._decoded(self.post_quant_embed(codes))
        return TokenizerOutput(coarse, full, loss, codes, ids_of_bits(codes > 0))

    def latents(self, x: Tensor) -> Tensor:
        """Normalised bars (B, T, 6) → what the signs are taken of (B, T, D)."""
        h = self.embed(x)
        for block in self.encoder:
            h = block(h)
        out: Tensor = self.quant_embed(h)
        return out

    def ids_of_latents(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (..., D) → coarse and fine ids (...)."""
        bits = z > 0
        return ids_of_bits(bits[..., : self.s1_bits]), ids_of_bits(bits[..., self.s1_bits :])

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised bars (B, T, 6) → coarse and fine ids (B, T)."""
        return self.ids_of_latents(self.latents(x))

    @torch.no_grad()
    def encode_full(self, x: Tensor) -> Tensor:
        """Normalised bars (B, T, 6) → full ids s1 + 2^s1_bits · s2 (B, T)."""
        s1, s2 = self.encode(x)
        return s1 + (s2 << self.s1_bits)

    def codes_of(self, s1: Tensor, s2: Tensor) -> Tensor:
        """Ids (...) → codes ±1/√D (..., D) in the weights' dtype."""
        bits = torch.cat((bits_of_ids(s1, self.s1_bits), bits_of_ids(s2, self.s2_bits)), dim=-1)
        signs = bits.to(self.post_quant_embed.weight.dtype) * 2 - 1
        codes: Tensor = signs * float(self.bits) ** -0.5
        return codes

    @torch.no_grad()
    def decode(self, s1: Tensor, s2: Tensor) -> Tensor:
        """Ids (B, T) → normalised bars (B, T, 6)."""
        return self._decoded(self.post_quant_embed(self.codes_of(s1, s2)))

    def _decoded(self, h: Tensor) -> Tensor:
        for block in self.decoder:
            h = block(h)
        out: Tensor = self.head(h)
        return out
