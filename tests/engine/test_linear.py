"""A row's bits must not depend on the rows beside it: products, norms and attention."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kronos_stream.engine.attention import Part, merged, with_suffix
from kronos_stream.engine.linear import Gate, Product, product
from kronos_stream.engine.networks import Norm, rotate
from kronos_stream.model.transformer import RMSNorm
from tests.threads import threads

from .conftest import computing

SHAPES = [(512, 1536), (512, 512), (1024, 512), (512, 1024), (256, 768), (160, 480), (20, 256)]
ROWS = [1, 2, 3, 7, 8, 10, 16, 20, 30, 60, 64, 240]
CPU = torch.device("cpu")


@pytest.fixture(
    params=[
        pytest.param(("compiled", torch.float32), id="compiled"),
        pytest.param(("torch", torch.float32), id="torch"),
        pytest.param(("torch", torch.bfloat16), id="bfloat16"),
    ]
)
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """float32 by our kernels and without them, and bfloat16, which these do not do."""
    way, dtype = request.param
    with computing(way):
        yield dtype


def linear(
    wide: int, out: int, *, bias: bool, dtype: torch.dtype
) -> tuple[nn.Linear, nn.Linear, Product, Gate]:
    """Two layers of torch, the first of them as our product, and both as our gate."""
    torch.manual_seed(out)
    first, second = (nn.Linear(wide, out, bias=bias).to(dtype) for _ in range(2))
    gate = Gate(first, second, dtype, CPU)
    return first, second, product(first, dtype=dtype, device=CPU), gate


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(("wide", "out"), [(96, 160), (512, 64), (8, 32), (96, 20)])
@torch.inference_mode()
def test_products_are_those_of_torch(
    wide: int, out: int, dtype: torch.dtype, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packs:
        monkeypatch.setattr("kronos_stream.engine.linear._packs", lambda weight: False)
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.05}
    for bias in (True, False):
        first, second, ours, gate = linear(wide, out, bias=bias, dtype=dtype)
        for rows in (1, 5, 40, 130):
            x, other = torch.randn(rows, wide).to(dtype), torch.randn(rows, out).to(dtype)
            kept = other.clone()
            y = first(x)
            torch.testing.assert_close(ours(x), y, **close)
            torch.testing.assert_close(ours.plus(x, other), y + other, **close)
            assert torch.equal(other, kept)
            if not bias:
                torch.testing.assert_close(gate(x), F.silu(y) * second(x), **close)


def test_layers_side_by_side() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(24, out) for out in (32, 64, 32)]
    x = torch.randn(9, 24)
    both = product(*layers, dtype=torch.float32, device=CPU)(x)
    torch.testing.assert_close(both, torch.cat([layer(x) for layer in layers], dim=1))


def test_a_gate_of_large_numbers_is_finite() -> None:
    w1, w3 = (nn.Linear(8, 32, bias=False) for _ in range(2))
    with torch.inference_mode():
        x = 1e4 * torch.randn(40, 8)
        torch.testing.assert_close(Gate(w1, w3, torch.float32, CPU)(x), F.silu(w1(x)) * w3(x))


def test_bfloat16_is_not_packed_where_the_processor_lacks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """oneDNN refuses to lay out bfloat16 weights without AVX-512."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)

    def refuse(weight: torch.Tensor) -> torch.Tensor:
        assert weight.dtype == torch.float32
        return weight

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
    for dtype in (torch.float32, torch.bfloat16):
        linear(16, 20, bias=True, dtype=dtype)


@pytest.mark.parametrize(
    ("wide", "out", "count"), [*((*shape, 1) for shape in SHAPES), (*SHAPES[0], 2)]
)
@torch.inference_mode()
def test_a_row_of_a_product_ignores_its_neighbours(
    dtype: torch.dtype, wide: int, out: int, count: int
) -> None:
    *_, ours, gate = linear(wide, out, bias=True, dtype=dtype)
    x, other = torch.randn(480, wide).to(dtype), torch.randn(480, out).to(dtype)
    calls = [
        lambda rows: ours(x[rows]),
        lambda rows: ours.plus(x[rows], other[rows]),
        lambda rows: gate(x[rows]),
    ]
    with threads(count):
        for call in calls:
            whole = call(slice(0, 480))
            for rows in ROWS:
                for start in (0, 1, 13, 240):
                    some = slice(start, start + rows)
                    assert torch.equal(call(some), whole[some]), (rows, start)


@pytest.mark.parametrize("width", [8, 24, 64])
@pytest.mark.usefixtures("steps")
@torch.inference_mode()
def test_a_row_of_the_rest_ignores_its_neighbours(width: int) -> None:
    """Elementwise kernels take another path for a tensor's last elements: sigmoid, or a complex
    product, would fail here."""
    torch.manual_seed(0)
    rows, heads = 480, 3
    q = torch.randn(rows, heads, width)
    turns = torch.rand(rows, 1, width), torch.rand(rows, 1, width // 2)
    keys, values = torch.randn(2, rows, heads, 7, width)
    one, other = (Part(torch.randn_like(q), torch.randn(rows, heads)) for _ in range(2))
    norm = Norm(RMSNorm(heads * width), torch.float32, CPU)

    def cut(part: Part, some: slice) -> Part:
        return Part(part.out[some], part.lse[some])

    calls = [
        lambda some: rotate(q[some].clone(), (turns[0][some], turns[1][some])),
        lambda some: with_suffix(cut(one, some), q[some], keys[some], values[some], 5),
        lambda some: merged(cut(one, some), cut(other, some)),
        lambda some: norm(q[some].flatten(1)),
    ]
    for call in calls:
        whole = call(slice(0, rows))
        for count in ROWS:
            for start in (0, 1, 13, 240):
                some = slice(start, start + count)
                assert torch.equal(call(some), whole[some]), (count, start)


@torch.inference_mode()
def test_two_parts_are_one_softmax() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 4, 16), torch.randn(4, 9, 16), torch.randn(4, 9, 16)
    whole = F.scaled_dot_product_attention(q.transpose(0, 1), k, v).transpose(0, 1)

    def part(span: slice) -> Part:
        logits = torch.einsum("rhd,hld->rhl", q, k[:, span]) * 16**-0.5
        out = torch.einsum("rhl,hld->rhd", logits.softmax(-1), v[:, span])
        return Part(out, logits.logsumexp(-1))

    early, late = slice(0, 5), slice(5, 9)
    torch.testing.assert_close(merged(part(early), part(late)), whole)
    # Room for two more steps, in which something old lies.
    own_k, own_v = (F.pad(x[None, :, late], (0, 0, 0, 2), value=3.0) for x in (k, v))
    own = (x.repeat(3, 1, 1, 1) for x in (own_k, own_v))
    torch.testing.assert_close(with_suffix(part(early), q, *own, 4), whole)
