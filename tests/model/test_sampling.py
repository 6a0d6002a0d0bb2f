"""The sampler against a plain one that takes a token at a time, in float64."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kronos_stream.errors import InputError
from kronos_stream.model.philox import uniforms
from kronos_stream.model.sampling import Sampling, draw, probabilities

SETTINGS = [
    Sampling(),
    Sampling(temperature=0.6),
    Sampling(temperature=2.5),
    Sampling(top_k=5),
    Sampling(top_k=1),
    Sampling(top_k=1_000),
    Sampling(top_p=0.9),
    Sampling(top_p=0.3),
    Sampling(top_p=1e-6),
    Sampling(temperature=0.7, top_k=9, top_p=0.8),
    Sampling(temperature=1.5, top_k=3, top_p=0.5),
]


def reference(logits: NDArray[np.float64], sampling: Sampling) -> NDArray[np.float64]:
    """Temperature, top_k, renormalise, top_p, renormalise: probabilities (V,)."""
    by_rank = sorted(range(len(logits)), key=lambda i: -logits[i])
    kept = by_rank[: sampling.top_k] if sampling.top_k else by_rank
    weights = {i: math.exp((logits[i] - logits[by_rank[0]]) / sampling.temperature) for i in kept}
    total = sum(weights.values())
    nucleus, mass = [], 0.0
    for i in kept:
        nucleus.append(i)
        mass += weights[i] / total
        if mass >= sampling.top_p:
            break
    out = np.zeros(len(logits))
    for i in nucleus:
        out[i] = weights[i] / total / mass
    return out


def logits_of(rows: int, size: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, 2, (rows, size))


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_probabilities(sampling: Sampling) -> None:
    logits = logits_of(40, 32)
    ours = probabilities(torch.from_numpy(logits), sampling).numpy()
    expected = np.stack([reference(row, sampling) for row in logits])
    assert ((ours > 0) == (expected > 0)).all()
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.99])
def test_of_equal_probabilities_the_lower_ids_whatever_the_batch_mates(top_p: float) -> None:
    """In bfloat16 many are equal, and a row so flat that it is sorted changes how others are."""
    logits = torch.from_numpy(logits_of(200, 1_024)).bfloat16().float()
    flat = torch.zeros(1, 1_024)
    sampling = Sampling(temperature=0.6, top_p=top_p)
    alone = probabilities(logits, sampling)
    assert (probabilities(torch.cat((logits, flat)), sampling)[:-1] == alone).all()
    assert (probabilities(flat, sampling)[0] > 0).nonzero()[:, 0].tolist() == list(
        range(math.ceil(top_p * 1_024))
    )
    for row, p in zip(logits[:20].double().numpy(), alone, strict=False):
        kept = (p > 0).numpy()
        assert row[kept].min() >= row[~kept].max()
        ties = np.flatnonzero(row == row[kept].min())
        assert (np.diff(kept[ties].astype(int)) <= 0).all()


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_the_token_is_the_first_whose_cumulative_probability_exceeds_u(sampling: Sampling) -> None:
    logits = logits_of(400, 32, seed=1)
    u = np.random.default_rng(2).random(400, dtype=np.float32)
    ours = draw(torch.from_numpy(logits), torch.from_numpy(u), sampling).tolist()
    for row, number, token in zip(logits, u, ours, strict=True):
        mass = np.cumsum(reference(row, sampling))
        # Two sums of rounded numbers may disagree where u falls within rounding of a border.
        assert np.abs(mass - number).min() > 1e-6
        assert token == int(np.argmax(mass > number))


def test_top_p_holds_after_top_k() -> None:
    """Upstream lets top_k switch top_p off; here both apply, top_p to what top_k left: of 0.4,
    0.3 and 0.2, renormalised, the first two hold 7/9."""
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    p = probabilities(logits, Sampling(top_k=3, top_p=0.75))
    torch.testing.assert_close(p, torch.tensor([4 / 7, 3 / 7, 0.0, 0.0]))
    p = probabilities(logits, Sampling(top_k=3, top_p=0.4))
    torch.testing.assert_close(p, torch.tensor([1.0, 0.0, 0.0, 0.0]))


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2.0**-24])
def test_ids_that_were_filtered_out_are_never_drawn(u: float) -> None:
    logits = torch.tensor([-9.0, 1.0, -9.0, 1.5, -9.0, -9.0]).repeat(2, 1)
    for sampling in (Sampling(top_k=2), Sampling(top_p=0.99), Sampling(top_k=4, top_p=0.9)):
        tokens = draw(logits, torch.full((2,), u), sampling)
        assert set(tokens.tolist()) <= {1, 3}


def test_greedy_takes_the_likeliest_whatever_u() -> None:
    logits = torch.from_numpy(logits_of(50, 32))
    for u in (0.0, 0.999):
        tokens = draw(logits, torch.full((50,), u), Sampling(temperature=5.0, top_k=1))
        assert torch.equal(tokens, logits.argmax(-1))


def test_logits_of_half_precision_are_sampled_in_float32() -> None:
    logits = torch.from_numpy(logits_of(20, 32)).to(torch.bfloat16)
    p = probabilities(logits, Sampling(top_p=0.95))
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, probabilities(logits.float(), Sampling(top_p=0.95)))


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=2.5, top_k=12, top_p=0.95)], ids=str
)
def test_frequencies_are_the_probabilities(sampling: Sampling) -> None:
    """Pearson's chi-square of 20,000 draws, below the 99.9 % point (Wilson-Hilferty)."""
    (logits,) = logits_of(1, 16, seed=3)
    u = uniforms([11], 100, 100).ravel()
    tokens = draw(torch.from_numpy(logits).expand(len(u), -1), torch.from_numpy(u), sampling)
    counts = np.bincount(tokens.numpy(), minlength=16)
    expected = reference(logits, sampling) * len(u)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    statistic = float(((counts - expected)[possible] ** 2 / expected[possible]).sum())
    freedom = int(possible.sum()) - 1
    assert freedom > 4
    part = 2 / (9 * freedom)
    assert statistic < freedom * (1 - part + 3.09 * math.sqrt(part)) ** 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, float], named: str) -> None:
    with pytest.raises(InputError, match=rf"{named}: expected .*got"):
        Sampling(**change)
