"""The one place that imports the peer package (upstream's code, a top-level `model`)."""

import dataclasses
from typing import Any

import numpy as np
import torch
from model import Kronos as PeerKronos
from model import KronosPredictor as PeerPredictor
from model import KronosTokenizer as PeerTokenizer
from numpy.typing import NDArray

__all__ = ["MINI", "SMALL", "TINY", "PeerPredictor", "Shape", "bars", "peer_pair", "stamps"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model's shape and the shape of the tokenizer beside it."""

    layers: int
    width: int
    ff: int
    heads: int
    bits: int = 10
    tokenizer_width: int = 256
    tokenizer_ff: int = 512
    tokenizer_layers: int = 4

    @property
    def model(self) -> dict[str, Any]:
        """config.json of the model."""
        return {
            "s1_bits": self.bits,
            "s2_bits": self.bits,
            "n_layers": self.layers,
            "d_model": self.width,
            "n_heads": self.heads,
            "ff_dim": self.ff,
            "ffn_dropout_p": 0.0,
            "attn_dropout_p": 0.0,
            "resid_dropout_p": 0.0,
            "token_dropout_p": 0.0,
            "learn_te": True,
        }

    @property
    def tokenizer(self) -> dict[str, Any]:
        """config.json of the tokenizer."""
        return {
            "d_in": 6,
            "d_model": self.tokenizer_width,
            "n_heads": 4,
            "ff_dim": self.tokenizer_ff,
            "n_enc_layers": self.tokenizer_layers,
            "n_dec_layers": self.tokenizer_layers,
            "ffn_dropout_p": 0.0,
            "attn_dropout_p": 0.0,
            "resid_dropout_p": 0.0,
            "s1_bits": self.bits,
            "s2_bits": self.bits,
            "beta": 0.05,
            "gamma0": 1.0,
            "gamma": 1.1,
            "zeta": 0.05,
            "group_size": self.bits // 2,
        }


TINY = Shape(3, 48, 96, 4, bits=8, tokenizer_width=32, tokenizer_ff=64, tokenizer_layers=3)
MINI = Shape(4, 256, 512, 4)
SMALL = Shape(8, 512, 1024, 8)


def peer_pair(shape: Shape, seed: int = 0) -> tuple[Any, Any]:
    """The peer's model and tokenizer with fresh seeded weights, in eval mode."""
    torch.manual_seed(seed)
    return PeerKronos(**shape.model).eval(), PeerTokenizer(**shape.tokenizer).eval()


def bars(n: int, seed: int = 0) -> NDArray[np.float64]:
    """Seeded synthetic bars (n, 6): a random walk with open, high, low, close, volume, amount."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.002, n)))
    open_ = np.concatenate(([100.0], close[:-1]))
    high = np.maximum(open_, close) * (1 + rng.exponential(0.0005, n))
    low = np.minimum(open_, close) * (1 - rng.exponential(0.0005, n))
    volume = rng.lognormal(3.0, 0.7, n)
    return np.column_stack((open_, high, low, close, volume, volume * (open_ + close) / 2))


def stamps(n: int, batch: int = 1) -> torch.Tensor:
    """Time features (batch, n, 5) of 5-minute bars from some Monday midnight on."""
    minutes = np.arange(n) * 5
    days = minutes // 1440
    one = np.stack(
        (minutes % 60, minutes // 60 % 24, days % 7, 1 + days % 28, 1 + days // 28 % 12), axis=-1
    )
    return torch.from_numpy(np.broadcast_to(one, (batch, n, 5)).copy())
