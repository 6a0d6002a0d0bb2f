"""A layer over cached keys and values is the model's block over the whole series, whichever way its
rows come; and no row's bits depend on the rows beside it."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from kronos_stream.engine.attention import Branches, Memory, trunks
from kronos_stream.engine.kv import KV, Lane, kept
from kronos_stream.engine.networks import Layer, Stack
from kronos_stream.model.transformer import Block
from tests.threads import threads

from .conftest import computing, multiplying_in_bfloat16

CPU = torch.device("cpu")
LENGTHS = (40, 37)
STEPS = 5
PATHS = 7


class Case(NamedTuple):
    """A block, and of each of two lanes a series (length + STEPS, d)."""

    block: Block
    stack: Stack
    kv: KV
    series: list[Tensor]

    @property
    def layer(self) -> Layer:
        (layer,) = self.stack.layers
        return layer

    def plain(self, x: Tensor) -> Tensor:
        """The block over whole series (B, T, d)."""
        return self.block(x)

    def run(self, x: Tensor, positions: list[int], memory: Memory, step: int = 0) -> Tensor:
        turns = self.stack.turns(torch.tensor(positions))
        return self.layer(x.clone(), turns, memory, step)

    def fill(self, *, chunk: int = 1_000) -> list[Tensor]:
        """Each lane's series but its last STEPS, in its slot."""
        out = []
        for slot, (x, length) in enumerate(zip(self.series, LENGTHS, strict=True)):
            parts = []
            for start in range(0, length, chunk):
                end = min(length, start + chunk)
                (memory,) = trunks(self.kv, [Lane(slot, start)], end - start)
                parts.append(self.run(x[start:end], list(range(start, end)), memory))
            out.append(torch.cat(parts))
        return out

    def own(self, rows: int) -> tuple[Tensor, Tensor]:
        shape = (rows, self.stack.kv_heads, STEPS, self.stack.head_width)
        keys, values = torch.randn(2, *shape).to(self.kv.keys.dtype)
        return keys, values


@pytest.fixture(
    params=[(64, 4, 4), (64, 4, 2), (40, 5, 5)],
    ids=["as many heads", "fewer of keys and values", "width of no panel"],
)
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(*request.param)


def case_of(width: int, heads: int, kv_heads: int, dtype: torch.dtype = torch.float32) -> Case:
    torch.manual_seed(width + kv_heads)
    block = Block(width, heads, 96, n_kv_heads=kv_heads).eval()
    for norm in (block.norm1, block.norm2):
        nn.init.uniform_(norm.weight, 0.5, 2)
    stack = Stack(nn.ModuleList([block]), 64, dtype, CPU)
    head = width // heads
    kv = KV(1, 3, kv_heads, 50, head, kept(dtype, CPU, head), CPU)
    kv.keys.fill_(torch.nan)
    kv.values.fill_(torch.nan)
    return Case(block, stack, kv, [torch.randn(length + STEPS, width) for length in LENGTHS])


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.usefixtures("every_way")
@pytest.mark.parametrize("chunk", [1, 8, 24, 1_000])
@torch.inference_mode()
def test_a_prefix_in_chunks(case: Case, chunk: int) -> None:
    for x, ours in zip(case.series, case.fill(chunk=chunk), strict=True):
        close(ours, case.plain(x[None, : len(ours)])[0])


@pytest.mark.usefixtures("every_way")
@torch.inference_mode()
def test_the_next_row_of_each_lane(case: Case) -> None:
    case.fill()
    whole = [case.plain(x[None])[0] for x in case.series]
    for step in range(STEPS):
        at = [length + step for length in LENGTHS]
        x = torch.stack([x[i] for x, i in zip(case.series, at, strict=True)])
        (memory,) = trunks(case.kv, [Lane(slot, i) for slot, i in enumerate(at)])
        close(case.run(x, at, memory), torch.stack([x[i] for x, i in zip(whole, at, strict=True)]))


def paths(case: Case) -> tuple[Tensor, Tensor, list[int], list[Lane]]:
    """What follows each lane on PATHS paths (2 · PATHS, STEPS, d), the same by the block over whole
    series, the position where each path begins, and the lanes."""
    begin = [length for length in LENGTHS for _ in range(PATHS)]
    lanes = [Lane(slot, length) for slot, length in enumerate(LENGTHS)]
    x = torch.randn(len(begin), STEPS, case.series[0].shape[1])
    plain = []
    for own, lane in zip(x, (lane for lane in lanes for _ in range(PATHS)), strict=True):
        whole = torch.cat((case.series[lane.slot][: lane.length], own))
        plain.append(case.plain(whole[None])[0, lane.length :])
    return x, torch.stack(plain), begin, lanes


@pytest.mark.usefixtures("every_way")
@torch.inference_mode()
def test_paths_a_step_at_a_time(case: Case) -> None:
    case.fill()
    x, plain, begin, lanes = paths(case)
    memory = Branches(case.kv, 0, lanes, case.own(len(x)))
    for step in range(STEPS):
        ours = case.run(x[:, step], [at + step for at in begin], memory, step)
        close(ours, plain[:, step])


@pytest.mark.usefixtures("every_way")
@torch.inference_mode()
def test_paths_in_one_run(case: Case) -> None:
    case.fill()
    x, plain, begin, lanes = paths(case)
    memory = Branches(case.kv, 0, lanes, case.own(len(x)), STEPS)
    positions = [at + step for at in begin for step in range(STEPS)]
    close(case.run(x.flatten(0, 1), positions, memory), plain.flatten(0, 1))


@pytest.mark.parametrize("way", ["compiled", "other"])
@torch.inference_mode()
def test_in_bfloat16(way: str) -> None:
    with computing(way), multiplying_in_bfloat16():
        case = case_of(64, 4, 2, torch.bfloat16)
        filled = case.fill(chunk=8)
        for x, ours in zip(case.series, filled, strict=True):
            near(ours, case.plain(x[None, : len(ours)])[0])
        x, plain, begin, lanes = paths(case)
        memory = Branches(case.kv, 0, lanes, case.own(len(x)))
        for step in range(STEPS):
            ours = case.run(x[:, step], [at + step for at in begin], memory, step)
            near(ours, plain[:, step])


def near(ours: Tensor, theirs: Tensor) -> None:
    """Numbers are rounded by 2⁻⁸ of themselves at most, before each of some products."""
    torch.testing.assert_close(ours, theirs, atol=2**-6, rtol=2**-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", ["compiled", "other"])
@pytest.mark.parametrize("run", [1, STEPS])
@torch.inference_mode()
def test_paths_ignore_their_neighbours_and_the_threads(
    run: int, way: str, dtype: torch.dtype
) -> None:
    with computing(way), multiplying_in_bfloat16():
        case = case_of(64, 4, 2, dtype)
        case.fill()
        x, _, begin, lanes = paths(case)
        rows = x[:, :run]
        own = case.own(len(x))

        def through(some: slice, of: list[Lane]) -> Tensor:
            memory = Branches(case.kv, 0, of, tuple(part[some].clone() for part in own), run)
            positions = [at + step for at in begin[some] for step in range(run)]
            return case.run(rows[some].flatten(0, 1), positions, memory).unflatten(0, (-1, run))

        whole = through(slice(0, 2 * PATHS), lanes)
        for count in (1, 2):
            with threads(count):
                for lane in lanes:
                    for some in (1, 2, 3, PATHS):
                        beside = slice(PATHS * lane.slot, PATHS * lane.slot + some)
                        assert torch.equal(through(beside, [lane]), whole[beside])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", ["compiled", "other"])
@torch.inference_mode()
def test_chunks_of_any_length_give_the_same_bits(way: str, dtype: torch.dtype) -> None:
    with computing(way), multiplying_in_bfloat16():
        case = case_of(64, 4, 2, dtype)
        whole = case.fill()
        for chunk, count in ((1, 1), (8, 2), (11, 1), (1_000, 2)):
            with threads(count):
                for ours, theirs in zip(case.fill(chunk=chunk), whole, strict=True):
                    assert torch.equal(ours, theirs)
