"""The transformer's parts: rotary tables, grouped queries, causality, blocks run in parts."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kronos_stream.model.transformer import Attention, Block, Rotary, rotary_table, rotate

WIDTH, HEADS, FF = 32, 4, 48


@pytest.fixture
def fresh_tables() -> Iterator[None]:
    """Tables made by this test alone."""
    rotary_table.cache_clear()
    yield
    rotary_table.cache_clear()


def block(seed: int = 0, n_kv_heads: int | None = None) -> Block:
    torch.manual_seed(seed)
    return Block(WIDTH, HEADS, FF, n_kv_heads=n_kv_heads).eval()


def hidden(rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, length, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("fresh_tables")
def test_a_table_first_made_in_inference_mode_serves_training() -> None:
    layer, x = block(), hidden(2, 7)
    with torch.inference_mode():
        forecast = layer(x)
    assert rotary_table.cache_info().currsize == 1
    trained = layer.train()(x)
    assert rotary_table.cache_info().currsize == 1
    trained.square().mean().backward()
    gradient = layer.self_attn.q_proj.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(trained.detach(), forecast.clone(), atol=1e-6, rtol=0)


@pytest.mark.usefixtures("fresh_tables")
def test_a_table_first_made_under_no_grad_or_in_training_serves_a_forecast() -> None:
    layer, x = block(), hidden(1, 5)
    with torch.no_grad():
        plain = layer(x)
    with torch.inference_mode():
        assert torch.equal(layer(x), plain)


def test_rotation_is_that_of_complex_numbers() -> None:
    """Channel i and channel i + D/2 are the real and imaginary part of one number."""
    width, length, start = 8, 6, 3
    x = torch.randn(1, 2, length, width, dtype=torch.float64).float()
    numbers = torch.complex(x[..., : width // 2].double(), x[..., width // 2 :].double())
    positions = torch.arange(start, start + length, dtype=torch.float64)
    speed = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    turned = numbers * torch.exp(1j * positions[:, None] * speed)
    expected = torch.cat((turned.real, turned.imag), dim=-1).float()
    torch.testing.assert_close(Rotary(width)(x, start), expected, atol=1e-5, rtol=0)


def test_positions_do_not_depend_on_the_table_they_come_from() -> None:
    rotary = Rotary(8)
    x = hidden(1, 520)[..., :8]
    whole = rotary(x)
    assert torch.equal(rotary(x[:, 500:510], 500), whole[:, 500:510])
    assert torch.equal(rotary(x[:, 510:], 510), whole[:, 510:])


def test_tables_stay_in_float32_whatever_the_dtype_of_the_model() -> None:
    rotary = Rotary(8).to(torch.bfloat16)
    x = hidden(1, 400)[..., :8].to(torch.bfloat16)
    cos, sin = rotary_table(8, 512, torch.device("cpu"))
    assert cos.dtype == sin.dtype == torch.float32
    turned = rotary(x)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(x.float(), cos[:400], sin[:400]).to(torch.bfloat16))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        future = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_against_the_formula(kv_heads: int, causal: bool) -> None:
    torch.manual_seed(0)
    layer = Attention(WIDTH, HEADS, kv_heads).eval()
    x = hidden(2, 9)
    q, (k, v) = layer.queries(x), layer.keys_values(x)
    assert k.shape == v.shape == (2, kv_heads, 9, WIDTH // HEADS)
    group = HEADS // kv_heads
    expected = plain_attention(
        q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), causal=causal
    )
    torch.testing.assert_close(layer.attend(q, k, v, causal=causal), expected)


def test_as_many_key_heads_as_query_heads_is_plain_attention() -> None:
    plain, grouped = block(n_kv_heads=None), block(seed=5, n_kv_heads=HEADS)
    grouped.load_state_dict(plain.state_dict())
    x = hidden(2, 9)
    assert torch.equal(grouped(x), plain(x))


@pytest.mark.parametrize("kv_heads", [2, 1])
def test_grouped_queries_are_a_plain_block_with_repeated_key_heads(kv_heads: int) -> None:
    grouped, plain = block(n_kv_heads=kv_heads), block(seed=5)
    weights = grouped.state_dict()
    for part in ("k_proj", "v_proj"):
        for name in ("weight", "bias"):
            key = f"self_attn.{part}.{name}"
            heads = weights[key].unflatten(0, (kv_heads, WIDTH // HEADS))
            weights[key] = heads.repeat_interleave(HEADS // kv_heads, 0).flatten(0, 1)
    plain.load_state_dict(weights)
    x = hidden(2, 9)
    torch.testing.assert_close(grouped(x), plain(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("d_model", "n_heads", "n_kv_heads", "named"),
    [
        (32, 5, None, "n_heads"),
        (32, 4, 3, "n_kv_heads"),
        (12, 4, None, "d_model"),
        (32, 4, 8, "n_kv_heads"),
    ],
    ids=["heads do not divide", "groups do not divide", "odd head", "more keys than queries"],
)
def test_heads_that_do_not_fit_are_refused_when_built(
    d_model: int, n_heads: int, n_kv_heads: int | None, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        Attention(d_model, n_heads, n_kv_heads)


@pytest.mark.parametrize("kv_heads", [None, 2])
@torch.no_grad()
def test_padding_on_the_right_changes_nothing_before_it(kv_heads: int | None) -> None:
    layer, x = block(n_kv_heads=kv_heads), hidden(2, 12)
    padded = torch.cat((x[:, :7], torch.full((2, 5, WIDTH), 1e3)), dim=1)
    torch.testing.assert_close(layer(padded)[:, :7], layer(x)[:, :7], atol=1e-6, rtol=0)


@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other() -> None:
    layer, x = block(), hidden(3, 8)
    alone = torch.cat([layer(row[None]) for row in x])
    torch.testing.assert_close(layer(x), alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kv_heads", [None, 2])
@torch.no_grad()
def test_a_block_in_parts_over_kept_keys_is_the_block_run_whole(kv_heads: int | None) -> None:
    layer, x = block(n_kv_heads=kv_heads), hidden(2, 10)
    q, k, v = layer.project(x[:, :6])
    rows = [layer.finish(x[:, :6], layer.self_attn.attend(q, k, v, causal=True))]
    for t in range(6, 10):
        q, new_k, new_v = layer.project(x[:, t : t + 1], t)
        k, v = torch.cat((k, new_k), 2), torch.cat((v, new_v), 2)
        attended = layer.self_attn.attend(q, k, v, causal=False)
        rows.append(layer.finish(x[:, t : t + 1], attended))
    torch.testing.assert_close(torch.cat(rows, 1), layer(x), atol=1e-5, rtol=0)
