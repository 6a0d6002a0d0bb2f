"""The compiled kernels do the arithmetic of torch."""

import pytest
import torch

from kronos_stream.engine import native
from kronos_stream.engine.attention import Branches, over_prefix, trunks, with_suffix
from kronos_stream.engine.kv import KV, Lane, kept
from kronos_stream.engine.networks import Norm, rotate
from kronos_stream.model.transformer import RMSNorm
from tests.threads import threads

from .conftest import computing, multiplying_in_bfloat16

CPU = torch.device("cpu")


def attention(
    heads: int,
    kv_heads: int,
    width: int,
    paths: int,
    *,
    length: int = 75,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, KV, list[Lane], tuple[torch.Tensor, torch.Tensor]]:
    """Queries whose rows lie apart, a cache of three slots, two lanes, and what is their own."""
    torch.manual_seed(width + paths)
    kv = KV(2, 3, kv_heads, 90, width, dtype, CPU)
    kv.keys.normal_()
    kv.values.normal_()
    q = torch.randn(2 * paths, heads + 2, width)[:, :heads]
    own = tuple(torch.randn(2 * paths, kv_heads, 7, width).to(dtype) for _ in range(2))
    return q, kv, [Lane(2, length), Lane(0, length - 4)], own


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("seen", [0, 1, 7])
@pytest.mark.parametrize("paths", [1, 10, 16, 17, 30])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(2, 2, 8), (6, 2, 24), (4, 4, 64)])
@torch.inference_mode()
def test_attention_is_that_of_torch(
    heads: int, kv_heads: int, width: int, paths: int, seen: int
) -> None:
    q, kv, lanes, own = attention(heads, kv_heads, width, paths)
    plain = with_suffix(over_prefix(q, kv, 1, lanes), q, *own, seen)
    torch.testing.assert_close(
        Branches(kv, 1, lanes, own).attend(q, seen), plain, atol=2e-6, rtol=1e-5
    )


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("seen", [0, 1, 7])
@pytest.mark.parametrize("paths", [1, 10, 16, 17])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(2, 2, 8), (6, 2, 24), (4, 4, 64)])
@torch.inference_mode()
def test_attention_over_bfloat16_rounds_queries_and_weights(
    heads: int, kv_heads: int, width: int, paths: int, seen: int
) -> None:
    dtype = torch.bfloat16
    with multiplying_in_bfloat16():
        q, kv, lanes, own = attention(heads, kv_heads, width, paths, dtype=dtype)
        ours = Branches(kv, 1, lanes, own).attend(q, seen)
    rounded = (q * width**-0.5).to(dtype).float() * width**0.5
    wide = KV(2, 3, kv_heads, 90, width, torch.float32, CPU)
    wide.keys, wide.values = kv.keys.float(), kv.values.float()
    plain = with_suffix(
        over_prefix(rounded, wide, 1, lanes), rounded, own[0].float(), own[1].float(), seen
    )
    # A weight by 2⁻⁸ of itself at most; they sum to 1, and no value is above 5.
    torch.testing.assert_close(ours, plain, atol=5 * 2**-8, rtol=0)


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("length", [5, 6, 7, 64, 65])
@torch.inference_mode()
def test_prefixes_of_any_length(length: int) -> None:
    q, kv, lanes, own = attention(2, 2, 8, 3, length=length)
    plain = with_suffix(over_prefix(q, kv, 1, lanes), q, *own, 3)
    torch.testing.assert_close(
        Branches(kv, 1, lanes, own).attend(q, 3), plain, atol=2e-6, rtol=1e-5
    )


@pytest.mark.usefixtures("vectors")
@torch.inference_mode()
def test_large_scores_stay_finite() -> None:
    q, kv, lanes, own = attention(2, 2, 8, 3)
    q = q * 1e4
    plain = with_suffix(over_prefix(q, kv, 0, lanes), q, *own, 7)
    torch.testing.assert_close(
        Branches(kv, 0, lanes, own).attend(q, 7), plain, atol=1e-5, rtol=1e-4
    )


@pytest.mark.usefixtures("vectors")
@torch.inference_mode()
def test_what_is_kept_in_bfloat16_is_rounded_as_torch_does() -> None:
    with multiplying_in_bfloat16():
        _, kv, lanes, _ = attention(2, 2, 8, 3, dtype=torch.bfloat16)
        keys, values = torch.randn(2, 2, 2, 8)
        keys[0, 0, :3] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8])  # ties
        trunk = trunks(kv, lanes)[1]
        trunk.append(keys, values)
    for part, new in ((kv.keys, keys), (kv.values, values)):
        for lane, row in zip(lanes, new, strict=True):
            assert torch.equal(part[1, lane.slot, :, lane.length], row.bfloat16())


@pytest.mark.parametrize(
    ("way", "dtype", "width", "expected"),
    [
        ("compiled", torch.bfloat16, 64, torch.bfloat16),
        ("compiled", torch.bfloat16, 20, torch.float32),
        ("compiled", torch.float32, 64, torch.float32),
        ("torch", torch.bfloat16, 64, torch.float32),
    ],
)
def test_only_the_kernels_keep_bfloat16_on_a_cpu(
    way: str, dtype: torch.dtype, width: int, expected: torch.dtype
) -> None:
    with computing(way), multiplying_in_bfloat16():
        assert kept(dtype, CPU, width) is expected


@pytest.mark.usefixtures("steps")
@torch.inference_mode()
def test_a_step_is_appended_in_its_place() -> None:
    _, kv, lanes, own = attention(2, 2, 8, 3)
    before = [part.clone() for part in own]
    qkv = torch.randn(6, 6, 8)
    keys, values = qkv[:, 2:4], qkv[:, 4:]
    Branches(kv, 0, lanes, own).append(keys, values, 4)
    for part, old, new in zip(own, before, (keys, values), strict=True):
        assert torch.equal(part[:, :, 4], new)
        assert torch.equal(part[:, :, :4], old[:, :, :4])
        assert torch.equal(part[:, :, 5:], old[:, :, 5:])


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("count", [1, 2])
@torch.inference_mode()
def test_attention_of_a_lane_ignores_its_neighbours(count: int) -> None:
    q, kv, lanes, own = attention(6, 2, 24, 17)
    whole = Branches(kv, 1, lanes, own).attend(q, 5)
    with threads(count):
        for lane in (0, 1):
            rows = slice(17 * lane, 17 * (lane + 1))
            memory = Branches(kv, 1, lanes[lane : lane + 1], (own[0][rows], own[1][rows]))
            alone = memory.attend(q[rows], 5)
            assert torch.equal(alone, whole[rows])
        # Of fewer paths, too.
        few = Branches(kv, 1, lanes[:1], (own[0][:4], own[1][:4])).attend(q[:4], 5)
        assert torch.equal(few, whole[:4])


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("width", [8, 40, 512])
@torch.inference_mode()
def test_norm_and_rotation_are_those_of_torch(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(width)
    norm = RMSNorm(width)
    torch.nn.init.normal_(norm.weight)
    x = 3 * torch.randn(300, width)
    torch.testing.assert_close(Norm(norm, CPU)(x), norm(x), atol=1e-6, rtol=1e-5)
    with threads(2):
        torch.testing.assert_close(Norm(norm, CPU)(x), norm(x), atol=1e-6, rtol=1e-5)
    q, half = torch.randn(9, 4, width), torch.rand(9, 1, width // 2)
    turns = torch.cat((half, half), dim=-1), torch.rand(9, 1, width // 2)
    compiled = rotate(q.clone()[:, :3], turns)
    monkeypatch.setattr(native, "_wanted", False)
    torch.testing.assert_close(compiled, rotate(q[:, :3], turns), atol=1e-6, rtol=1e-5)


def test_other_tensors_are_torchs() -> None:
    assert native.kernels(torch.empty(1, 64, dtype=torch.bfloat16)) is None
    assert native.kernels(torch.empty(1, 64, device="meta")) is None
    assert native.kernels(torch.empty(1, 20)) is None
