"""Staging and padding of a GPU's batches, with the graph itself replaced by a plain call (a GPU is
not needed), and attention over slots taken together."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kronos_stream.engine import attention, replay
from kronos_stream.engine.core import Engine
from kronos_stream.engine.replay import Replay
from kronos_stream.engine.rollout import Inputs
from tests.model.peer import bars

from .requests import paths_of, request, spec, tiny_pair


class Uncaptured:
    """What a graph does, without one: the same places, the same call."""

    made = 0

    def __init__(self, roll: Callable[[Inputs], Tensor], inputs: Inputs) -> None:
        type(self).made += 1
        self._roll, self._inputs = roll, Inputs(*(part.clone() for part in inputs))

    def replay(self, inputs: Inputs) -> Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        return self._roll(self._inputs)


@pytest.mark.parametrize("anchor_every", [0, 1, 4])
@pytest.mark.parametrize("symbols", [1, 3, 5, 9])
def test_staged_padded_and_together_give_the_same_paths(
    symbols: int, anchor_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_Graph", Uncaptured)
    monkeypatch.setattr(replay, "SIZES", (1, 4))
    monkeypatch.setattr(Uncaptured, "made", 0)
    wanted = spec(anchor_every=anchor_every)
    names = [f"S{i}" for i in range(symbols)]
    plain, replayed = Engine(*tiny_pair(), wanted), Engine(*tiny_pair(), wanted)
    roll = replayed._roll.func  # type: ignore[attr-defined]
    replayed._roll = Replay(replayed.cache.prefixes, roll, most=64)
    runs = attention._runs
    series = [bars(80, i) for i in range(symbols)]
    for row in (60, 61, 62):
        asked = [request(n, v, row, wanted) for n, v in zip(names, series, strict=True)]
        monkeypatch.setattr(attention, "_runs", runs)
        ours = plain.forecast(asked, lambda: 0)
        monkeypatch.setattr(attention, "_runs", lambda lanes, together: runs(lanes, together=True))
        for one, other in zip(ours, replayed.forecast(asked, lambda: 0), strict=True):
            torch.testing.assert_close(
                torch.from_numpy(paths_of(one, wanted).copy()),
                torch.from_numpy(paths_of(other, wanted).copy()),
            )
    if anchor_every < 2:
        assert Uncaptured.made == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lanes_that_pad_a_batch_leave_nothing_behind(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that was just made holds whatever its memory held before; rows that only pad a batch
    look there, and what they write stands where the next batch may look."""
    monkeypatch.setattr(replay, "_Graph", Uncaptured)
    monkeypatch.setattr(replay, "SIZES", (1, 8))
    wanted = spec(dtype=dtype)
    plain, replayed = Engine(*tiny_pair(), wanted), Engine(*tiny_pair(), wanted)
    roll = replayed._roll.func  # type: ignore[attr-defined]
    replayed._roll = Replay(replayed.cache.prefixes, roll, most=64)
    empty = torch.empty

    def spoilt(*shape: Any, **more: Any) -> Tensor:
        made = empty(*shape, **more)
        return made.fill_(torch.nan) if made.is_floating_point() and made.dim() == 5 else made

    monkeypatch.setattr(torch, "empty", spoilt)
    for row, symbols in ((60, 2), (61, 8), (62, 3), (63, 7)):
        asked = [request(f"S{i}", bars(80, i), row, wanted) for i in range(symbols)]
        ours, theirs = (e.forecast(asked, lambda: 0) for e in (plain, replayed))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(paths_of(one, wanted).copy()),
                torch.from_numpy(paths_of(other, wanted).copy()),
            )


def test_lanes_side_by_side_are_one_run() -> None:
    lanes = [attention.Lane(*pair) for pair in ((0, 5), (1, 5), (2, 6), (3, 6), (5, 6))]
    assert list(attention._runs(lanes, together=True)) == [(0, 2, 5), (2, 2, 6), (5, 1, 6)]
    assert list(attention._runs(lanes, together=False)) == [(s, 1, n) for s, n in lanes]
