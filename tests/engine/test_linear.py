"""A row's bits must not depend on the rows beside it: products, norms and attention."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kronos_stream.engine.attention import Part, _half, merged, with_suffix
from kronos_stream.engine.linear import Gate, Product, multiplies, product
from kronos_stream.engine.networks import Norm, rotate
from kronos_stream.model.transformer import RMSNorm
from tests.threads import threads

from .conftest import computing, multiplying_in_bfloat16

SHAPES = [(512, 1536), (512, 512), (1024, 512), (512, 1024), (256, 768), (160, 480), (20, 256)]
ROWS = [1, 2, 3, 7, 8, 10, 16, 20, 30, 60, 64, 240]
CPU = torch.device("cpu")


@pytest.fixture(
    params=[
        pytest.param(("compiled", torch.float32), id="compiled"),
        pytest.param(("torch", torch.float32), id="torch"),
        pytest.param(("compiled", torch.bfloat16), id="compiled bfloat16"),
        pytest.param(
            ("torch", torch.bfloat16),
            id="bfloat16",
            marks=pytest.mark.skipif(
                not multiplies(torch.bfloat16, CPU), reason="this processor has no bfloat16"
            ),
        ),
    ]
)
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """Either, by our kernels and without them."""
    way, dtype = request.param
    with computing(way), multiplying_in_bfloat16():
        yield dtype


def linear(
    wide: int, out: int, *, bias: bool, dtype: torch.dtype
) -> tuple[nn.Linear, nn.Linear, Product, Gate]:
    """Two layers of torch in float32, the first of them as our product, and both as our gate."""
    torch.manual_seed(out)
    first, second = (nn.Linear(wide, out, bias=bias) for _ in range(2))
    gate = Gate(first, second, dtype, CPU)
    return first, second, product(first, dtype=dtype, device=CPU), gate


def check(
    wide: int, out: int, x_dtype: torch.dtype, w_dtype: torch.dtype, atol: float, rtol: float
) -> None:
    """Products in float32 or bfloat16 against those of torch: x and the weights are first rounded
    to these dtypes."""

    def rounded(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        bias = None if layer.bias is None else layer.bias.to(w_dtype).float()
        return F.linear(x.to(x_dtype).float(), layer.weight.to(w_dtype).float(), bias)

    close = partial(torch.testing.assert_close, atol=atol, rtol=rtol)
    for bias in (True, False):
        first, second, ours, gate = linear(wide, out, bias=bias, dtype=w_dtype)
        for rows in (1, 5, 40, 130):
            x, other = torch.randn(rows, wide), torch.randn(rows, out)
            kept = other.clone()
            y = rounded(first, x)
            close(ours(x), y)
            close(ours.plus(x, other), y + other)
            assert torch.equal(other, kept)
            if not bias:
                close(gate(x).float(), F.silu(y) * rounded(second, x))


PRODUCTS = [(96, 160), (512, 64), (8, 32), (96, 20)]


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(("wide", "out"), PRODUCTS)
@pytest.mark.usefixtures("every_way")
@torch.inference_mode()
def test_products_are_those_of_torch(
    wide: int, out: int, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packs:
        monkeypatch.setattr("kronos_stream.engine.linear._packs", lambda weight: False)
    check(wide, out, torch.float32, torch.float32, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("wide", "out"), PRODUCTS)
@pytest.mark.usefixtures("every_way")
@torch.inference_mode()
def test_products_in_bfloat16(wide: int, out: int) -> None:
    """Without the kernels they come out rounded (by 2⁻⁷ at most below 4), and the two of a gate
    before they are multiplied; residuals do not."""
    with multiplying_in_bfloat16():
        check(wide, out, torch.bfloat16, torch.bfloat16, atol=2**-7, rtol=3 * 2**-8)


@pytest.mark.parametrize(("wide", "out"), [shape for shape in PRODUCTS if shape[1] % 32 == 0])
@pytest.mark.usefixtures("vectors")
@torch.inference_mode()
def test_compiled_products_in_bfloat16_are_summed_in_float32(wide: int, out: int) -> None:
    with multiplying_in_bfloat16():
        check(wide, out, torch.bfloat16, torch.bfloat16, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("wide", "out"), PRODUCTS)
@torch.inference_mode()
def test_bfloat16_without_products_in_it_is_that_of_the_weights(
    wide: int, out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN refuses to lay out bfloat16 weights without AVX-512, and torch's own products of them
    are ten times slower than those of float32."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    check(wide, out, torch.float32, torch.bfloat16, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("onednn", "avx512", "avx512_bf16", "expected"),
    [
        pytest.param(False, False, False, False, id="AVX2"),
        pytest.param(True, True, False, False, id="AVX-512 alone"),
        pytest.param(True, True, True, True, id="AVX-512 or AMX for it"),
        pytest.param(True, False, False, True, id="ARM"),
    ],
)
def test_bfloat16_is_for_processors_that_have_it(
    onednn: bool, avx512: bool, avx512_bf16: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert multiplies(torch.bfloat16, CPU) is expected
    assert multiplies(torch.float32, CPU)


def test_layers_side_by_side() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(24, out) for out in (32, 64, 32)]
    x = torch.randn(9, 24)
    both = product(*layers, dtype=torch.float32, device=CPU)(x)
    torch.testing.assert_close(both, torch.cat([layer(x) for layer in layers], dim=1))


def test_a_gate_of_large_numbers_is_finite() -> None:
    torch.manual_seed(0)
    w1, w3 = (nn.Linear(8, 32, bias=False) for _ in range(2))
    with torch.inference_mode():
        x = 1e4 * torch.randn(40, 8)
        torch.testing.assert_close(Gate(w1, w3, torch.float32, CPU)(x), F.silu(w1(x)) * w3(x))


@pytest.mark.parametrize(
    ("wide", "out", "count"), [*((*shape, 1) for shape in SHAPES), (*SHAPES[0], 2)]
)
@torch.inference_mode()
def test_a_row_of_a_product_ignores_its_neighbours(
    dtype: torch.dtype, wide: int, out: int, count: int
) -> None:
    *_, ours, gate = linear(wide, out, bias=True, dtype=dtype)
    x, other = torch.randn(480, wide), torch.randn(480, out)
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
    norm = Norm(RMSNorm(heads * width), CPU)

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


@pytest.mark.parametrize("width", [52, 64, 416], ids=["base", "small", "fine_head_of_large"])
def test_a_gpus_kernels_take_heads_of_every_official_width(width: int) -> None:
    """Shapes alone, on torch's device without numbers: no GPU is needed, and none has run it."""
    q, k = (torch.empty(3, 4, n, width, dtype=torch.bfloat16, device="meta") for n in (10, 20))
    out, lse = _half(q, k, k, causal=False)
    assert out.shape == q.shape
    assert lse.shape == q.shape[:3]
