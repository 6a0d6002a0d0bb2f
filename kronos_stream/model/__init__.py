"""Kronos itself: tokenizer, model, predictor. Usable alone, without broker or store.

Names are imported on first use: the consumer's process uses this package's pure parts and must
never import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .kronos import Kronos
    from .predictor import KronosPredictor
    from .tokenizer import KronosTokenizer

__all__ = ["Kronos", "KronosPredictor", "KronosTokenizer"]

_HOMES = {"Kronos": "kronos", "KronosPredictor": "predictor", "KronosTokenizer": "tokenizer"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
