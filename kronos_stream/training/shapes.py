"""What is trained: a fresh module of a named size, or a checkpoint to go on from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from ..model.checkpoints import Checkpointed, revision_of

T = TypeVar("T", bound=Checkpointed)

MODEL_SIZES: Final[dict[str, dict[str, int]]] = {
    "nano": {"n_layers": 4, "d_model": 160, "n_heads": 4, "ff_dim": 320},
    "mini": {"n_layers": 4, "d_model": 256, "n_heads": 4, "ff_dim": 512},
    "small": {"n_layers": 8, "d_model": 512, "n_heads": 8, "ff_dim": 1024},
    "base": {"n_layers": 12, "d_model": 832, "n_heads": 16, "ff_dim": 2048},
}
"""Those of the published models, and a smaller one."""

_OFFICIAL_TOKENIZER: Final = {"n_layers": 3, "d_model": 256, "n_heads": 4, "ff_dim": 512}
TOKENIZER_SIZES: Final[dict[str, dict[str, int]]] = {
    "nano": {"n_layers": 2, "d_model": 96, "n_heads": 4, "ff_dim": 192},
    "mini": _OFFICIAL_TOKENIZER,
    "small": _OFFICIAL_TOKENIZER,
    "base": _OFFICIAL_TOKENIZER,
}
"""`n_layers` blocks in the encoder and as many in the decoder."""

DROPOUTS: Final = ("ffn_dropout_p", "attn_dropout_p", "resid_dropout_p", "token_dropout_p")
_LARGEST_GROUP: Final = 5


def model_config(
    shape: Mapping[str, int], *, s1_bits: int, s2_bits: int, dropout: float, window: int
) -> dict[str, Any]:
    """config.json of a fresh model."""
    dropouts = dict.fromkeys(DROPOUTS, dropout)
    bits = {"s1_bits": s1_bits, "s2_bits": s2_bits}
    return {**shape, **bits, **dropouts, "learn_te": True, "max_context": window}


def tokenizer_config(
    shape: Mapping[str, int], *, s1_bits: int, s2_bits: int, dropout: float
) -> dict[str, Any]:
    """config.json of a fresh tokenizer, the quantizer's constants as published."""
    rest = dict(shape)
    # The layout's names count one block more than there is.
    layers = rest.pop("n_layers") + 1
    bits = s1_bits + s2_bits
    return {
        **rest,
        "d_in": 6,
        "n_enc_layers": layers,
        "n_dec_layers": layers,
        **dict.fromkeys(DROPOUTS[:3], dropout),
        "s1_bits": s1_bits,
        "s2_bits": s2_bits,
        "beta": 0.05,
        "gamma0": 1.0,
        "gamma": 1.1,
        "zeta": 0.05,
        "group_size": max(n for n in range(1, _LARGEST_GROUP + 1) if bits % n == 0),
    }


def begun_from(cls: type[T], name: str | Path, changes: Mapping[str, Any]) -> tuple[T, str]:
    """The checkpoint `name` (a folder or a hub id) with some keys of its config changed, and the
    digest of what it was. The weights must still fit: only keys that have none may change."""
    source = cls.from_pretrained(name)
    module = cls.from_config({**source.config, **changes}, str(name))
    module.load_state_dict(source.state_dict())
    return module, revision_of(source)
