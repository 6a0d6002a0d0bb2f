"""Kronos itself: tokenizer, model, predictor. Usable alone, without broker or store."""

from .kronos import Kronos
from .predictor import KronosPredictor
from .tokenizer import KronosTokenizer

__all__ = ["Kronos", "KronosPredictor", "KronosTokenizer"]
