"""Which model a name means: the built-in one, a folder, or a hub id with its tokenizer."""

import logging
from pathlib import Path
from typing import Final, Literal

import torch

from ..errors import ModelError
from ..settings import BUILTIN
from .checkpoints import CONFIG, revision_of
from .kronos import Kronos
from .tokenizer import KronosTokenizer

log = logging.getLogger(__name__)

BUILTIN_FOLDER: Final = Path(__file__).parent / "builtin"

TOKENIZERS: Final = {
    "NeoQuasar/Kronos-mini": "NeoQuasar/Kronos-Tokenizer-2k",
    "NeoQuasar/Kronos-small": "NeoQuasar/Kronos-Tokenizer-base",
    "NeoQuasar/Kronos-base": "NeoQuasar/Kronos-Tokenizer-base",
    "NeoQuasar/Kronos-large": "NeoQuasar/Kronos-Tokenizer-base",
}
"""The tokenizer that each official model was trained with."""


def load_pair(
    model: str, tokenizer: str | None = None, *, revision: str | None = None
) -> tuple[Kronos, KronosTokenizer]:
    """The model and the tokenizer that fits it, float32, in eval mode.

    `model`: `builtin`, a folder that holds model/ and tokenizer/, a folder of the model alone
    (then `tokenizer` names the other part), or a hub id. ModelError says what does not fit.
    """
    model_part, tokenizer_part = _parts(model, tokenizer)
    kronos = Kronos.from_pretrained(model_part, revision=revision)
    # A revision names a commit of the model's repository; the tokenizer has its own.
    pair = kronos, KronosTokenizer.from_pretrained(tokenizer_part)
    check_pair(*pair, names=(str(model_part), str(tokenizer_part)))
    return pair


def check_pair(
    model: Kronos, tokenizer: KronosTokenizer, *, names: tuple[str, str] = ("given", "given")
) -> None:
    """ModelError where the two cannot work together; a warning where the model knows that it was
    trained with another tokenizer."""
    for part, given, kind in (("model", model, Kronos), ("tokenizer", tokenizer, KronosTokenizer)):
        if not isinstance(given, kind):
            raise ModelError(
                f"{part}: expected a {kind.__module__}.{kind.__name__}, got "
                f"{type(given).__module__}.{type(given).__name__}"
            )
        dtype = next(given.parameters()).dtype
        if dtype != torch.float32:
            raise ModelError(f"{part}: expected weights in torch.float32, got {dtype}")
    bits, expected = ((part.s1_bits, part.s2_bits) for part in (tokenizer, model))
    if bits != expected:
        raise ModelError(
            f"tokenizer: {names[1]} makes ids of {bits[0]}+{bits[1]} bits, the model {names[0]} "
            f"expects {expected[0]}+{expected[1]}"
        )
    if model.trained_with is not None and model.trained_with != (found := revision_of(tokenizer)):
        log.warning(
            "tokenizer: the model %s was trained with another one: revision %s, %s has %s",
            *(names[0], model.trained_with, names[1], found),
        )


def part_of(name: str, part: Literal["model", "tokenizer"]) -> str | Path:
    """The checkpoint that `name` means: one part of `builtin` or of a folder that holds both, or
    what it says (a checkpoint's folder, a hub id)."""
    folder = (BUILTIN_FOLDER if name == BUILTIN else Path(name)) / part
    return folder if (folder / CONFIG).is_file() else name


def _parts(model: str, tokenizer: str | None) -> tuple[str | Path, str | Path]:
    if tokenizer is not None:
        tokenizer = str(part_of(tokenizer, "tokenizer"))
    folder = BUILTIN_FOLDER if model == BUILTIN else Path(model)
    if (folder / "model" / CONFIG).is_file():
        return folder / "model", tokenizer or folder / "tokenizer"
    known = tokenizer or TOKENIZERS.get(model)
    if known is not None:
        return model, known
    if folder.is_dir() and (folder.parent / "tokenizer" / CONFIG).is_file():
        return folder, folder.parent / "tokenizer"
    if folder.is_dir() and not (folder / CONFIG).is_file():
        raise ModelError(
            f"model: {model!r} holds neither model/{CONFIG} nor {CONFIG}; expected a folder with "
            "model/ and tokenizer/, or one checkpoint"
        )
    if folder.is_dir():
        raise ModelError(f"tokenizer: name the one that belongs to {model!r} (--tokenizer)")
    raise ModelError(
        f"model: expected builtin, a folder with model/ and tokenizer/, or a hub id of "
        f"{', '.join(TOKENIZERS)} (others with --tokenizer), got {model!r}"
    )
