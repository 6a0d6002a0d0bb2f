"""A model as settings name it, for a process that computes with it."""

import torch

from ..model.catalog import load_pair
from ..model.kronos import Kronos
from ..model.tokenizer import KronosTokenizer
from ..settings import ModelSettings
from . import native
from .messages import EngineConfig


def load(settings: ModelSettings | EngineConfig) -> tuple[Kronos, KronosTokenizer]:
    """Takes as many threads and the kernels that they say, and loads both parts. ModelError says
    what does not fit."""
    native.choose(settings.native)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    pair = load_pair(settings.model, settings.tokenizer, revision=settings.revision)
    if settings.max_context:
        pair[0].max_context = settings.max_context
    return pair
