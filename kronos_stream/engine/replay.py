"""Rollouts on a GPU, replayed as CUDA graphs: the thousands of kernels of one rollout are launched
at once instead of one by one from Python.

A graph reads and writes where it did when it was captured. A small batch is therefore first copied
into stages, slots of a fixed place, and padded to one of a few sizes; a large one is read where it
lies, with a graph for its very lanes, which are the same at every close of a steady set of symbols.
Lanes that lie side by side make fewer and larger kernels, so a caller sorts them.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from .cache import Prefixes
from .kv import Lane
from .rollout import Inputs

SIZES: Final = (1, 8, 64)
"""Symbols of a staged batch, padded."""
GRAPHS: Final = 8
"""Graphs kept, the least recently used goes."""

Roll = Callable[[Prefixes, Sequence[Lane], Inputs], Tensor]


class Replay:
    """Calls `roll` through graphs; a result holds until the next call."""

    def __init__(self, prefixes: Prefixes, roll: Roll, most: int) -> None:
        """`most` symbols are the largest batch that `roll` takes."""
        self._prefixes = prefixes
        self._roll = roll
        self._sizes = [size for size in SIZES if size <= most]
        self._stages: dict[int, Prefixes] = {}
        self._graphs: OrderedDict[tuple[bool, tuple[Lane, ...]], _Graph] = OrderedDict()

    def __call__(self, lanes: Sequence[Lane], inputs: Inputs) -> Tensor:
        """z (S, paths, steps, 6) behind S lanes."""
        length = lanes[0].length
        if any(lane.length != length for lane in lanes):
            # Where anchors are kept for several bars, lengths change from close to close, and a
            # graph would serve only once.
            return self._roll(self._prefixes, lanes, inputs)
        size = next((size for size in self._sizes if size >= len(lanes)), None)
        if size is None:
            return self._graph(self._prefixes, tuple(lanes), inputs, staged=False).replay(inputs)
        stage = self._staged(size, lanes)
        inputs = Inputs(*(_padded(part, size) for part in inputs))
        places = tuple(Lane(slot, length) for slot in range(size))
        return self._graph(stage, places, inputs, staged=True).replay(inputs)[: len(lanes)]

    def _staged(self, size: int, lanes: Sequence[Lane]) -> Prefixes:
        if size not in self._stages:
            self._stages[size] = Prefixes(*(kv.like(size) for kv in self._prefixes))
        slots = torch.tensor([lane.slot for lane in lanes], device=self._prefixes.model.keys.device)
        for own, theirs in zip(self._stages[size], self._prefixes, strict=True):
            own.copy_from(theirs, slots)
        return self._stages[size]

    def _graph(
        self, prefixes: Prefixes, lanes: tuple[Lane, ...], inputs: Inputs, *, staged: bool
    ) -> "_Graph":
        key = (staged, lanes)
        graph = self._graphs.pop(key, None)
        if graph is None:
            if len(self._graphs) == GRAPHS:
                self._graphs.popitem(last=False)
            graph = _Graph(lambda own: self._roll(prefixes, lanes, own), inputs)
        self._graphs[key] = graph
        return graph


class _Graph:
    """One captured rollout and the places of its inputs and its result."""

    def __init__(self, roll: Callable[[Inputs], Tensor], inputs: Inputs) -> None:
        self._inputs = Inputs(*(part.clone() for part in inputs))
        # A first run apart lets the libraries make what may not be made while capturing.
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            roll(self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = roll(self._inputs)

    def replay(self, inputs: Inputs) -> Tensor:
        """The result for these inputs."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._result


def _padded(part: Tensor, size: int) -> Tensor:
    return F.pad(part, (0, 0) * (part.dim() - 1) + (0, size - part.shape[0]))
