"""Both losses against upstream's values, its live code, and their definition."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kronos_stream.model import Kronos, KronosTokenizer
from kronos_stream.model.quantizer import Quantizer
from kronos_stream.training.losses import ModelLoss, TokenizerLoss
from kronos_stream.training.shapes import model_config, tokenizer_config
from tests.model.peer import TINY as PEER
from tests.model.peer import bars, peer_pair, stamps
from tests.training.markets import TINY

B, T = 2, 20


def close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def series(seed: int = 0) -> Tensor:
    drawn = torch.randn(B, T, 6, generator=torch.Generator().manual_seed(seed))
    return drawn.cumsum(1).clamp(-5, 5) / 2


@pytest.fixture
def tokenizer() -> KronosTokenizer:
    torch.manual_seed(0)
    config = tokenizer_config(TINY, s1_bits=4, s2_bits=4, dropout=0.0)
    return KronosTokenizer.from_config(config)


@pytest.fixture
def model() -> Kronos:
    torch.manual_seed(0)
    return Kronos.from_config(model_config(TINY, s1_bits=4, s2_bits=4, dropout=0.0, window=T))


@pytest.mark.parametrize("name", ["tiny", "tiny-fixed-te"])
def test_golden(shared: Path, name: str) -> None:
    folder = shared / "golden" / name
    with np.load(folder / "vectors.npz") as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files}
    x, stamp = golden["x"], golden["stamp"]
    ones = torch.ones(x.shape[:2])
    model = ModelLoss(
        Kronos.from_pretrained(folder / "model").train(), lambda z: (golden["s1"], golden["s2"])
    )
    out = model(x, stamp, ones)
    close(out.loss.detach(), golden["train_loss"])
    close(out.parts["loss_s1"], golden["train_loss_s1"])
    close(out.parts["loss_s2"], golden["train_loss_s2"])
    tokenizer = KronosTokenizer.from_pretrained(folder / "tokenizer").train()
    out = TokenizerLoss(tokenizer, [1.0] * 6)(x, stamp, ones)
    coarse = F.mse_loss(golden["recon_coarse"], x)
    full = F.mse_loss(golden["recon_full"], x)
    close(out.parts["quantizer"], golden["quantizer_loss_train"])
    close(out.loss.detach(), (coarse + full + golden["quantizer_loss_train"]) / 2)


def test_peer(tmp_path: Path) -> None:
    """Upstream's modules in training mode, and the sums that its training scripts make of them."""
    peer_model, peer_tokenizer = peer_pair(PEER)
    peer_model.save_pretrained(tmp_path / "model")
    peer_tokenizer.save_pretrained(tmp_path / "tokenizer")
    model = Kronos.from_pretrained(tmp_path / "model").train()
    tokenizer = KronosTokenizer.from_pretrained(tmp_path / "tokenizer").train()
    raw = np.stack([bars(48, seed) for seed in range(2)])
    z = ((raw - raw.mean(1, keepdims=True)) / raw.std(1, keepdims=True)).astype(np.float32)
    x, when, ones = torch.from_numpy(z), stamps(48, 2), torch.ones(2, 48)
    (coarse, full), quantizer, _, _ = peer_tokenizer.train()(x)
    theirs = (F.mse_loss(coarse, x) + F.mse_loss(full, x) + quantizer) / 2
    close(TokenizerLoss(tokenizer, [1.0] * 6)(x, when, ones).loss, theirs)
    with torch.no_grad():
        s1, s2 = peer_tokenizer.eval().encode(x, half=True)
    logits = peer_model.train()(
        s1[:, :-1],
        s2[:, :-1],
        stamp=when[:, :-1],
        use_teacher_forcing=True,
        s1_targets=s1[:, 1:],
    )
    theirs, theirs_s1, theirs_s2 = peer_model.head.compute_loss(*logits, s1[:, 1:], s2[:, 1:])
    ours = ModelLoss(model, lambda z: (s1, s2))(x, when, ones)
    close(ours.loss, theirs)
    close(ours.parts["loss_s1"], theirs_s1.detach())
    close(ours.parts["loss_s2"], theirs_s2.detach())


@pytest.mark.parametrize("condition", ["true", "sampled"])
def test_a_batch_in_which_nothing_counts_teaches_nothing(
    model: Kronos, tokenizer: KronosTokenizer, condition: Literal["true", "sampled"]
) -> None:
    for loss in (
        TokenizerLoss(tokenizer, [1.0] * 6),
        ModelLoss(model, tokenizer.encode, condition),
    ):
        loss.zero_grad()
        out = loss.train()(series(), stamps(T, B), torch.zeros(B, T))
        out.loss.backward()
        assert all(part.isfinite() for part in (out.loss, *out.parts.values()))
        assert not any(p.grad.any() for p in loss.parameters() if p.grad is not None)


def test_only_weighted_bars_count(model: Kronos, tokenizer: KronosTokenizer) -> None:
    """A bar that counts nothing may be anything, if no later one sees it."""
    z, when = series(), stamps(T, B)
    weights = torch.zeros(B, T)
    weights[:, 8:14] = torch.rand(B, 6) + 0.1
    loss = ModelLoss(model, tokenizer.encode)
    found = loss(z, when, weights)
    other = z.clone()
    other[:, 14:] = 3.0
    close(loss(other, when, weights).loss, found.loss)
    s1, s2 = tokenizer.encode(z)
    logits = model(s1[:, :-1], s2[:, :-1], when[:, :-1], s1[:, 1:])
    w = weights[:, 1:].flatten() / weights[:, 1:].sum()
    each = [
        (F.cross_entropy(c.flatten(0, 1), ids[:, 1:].flatten(), reduction="none") * w).sum()
        for c, ids in zip(logits, (s1, s2), strict=True)
    ]
    close(found.loss, (each[0] + each[1]) / 2)
    of_tokenizer = TokenizerLoss(tokenizer, [1.0] * 6)
    close(of_tokenizer(other, when, weights).loss, of_tokenizer(z, when, weights).loss)


def test_quantizer_weights_are_shares_of_a_mean() -> None:
    quantizer = Quantizer(3, 3, beta=0.05, gamma0=1.0, gamma=1.1, zeta=0.05, group_size=3)
    z = torch.randn(B, T, 6, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(B, T)
    close(quantizer(z, weights).loss, quantizer(z).loss)
    weights[:, 12:] = 0
    close(quantizer(z, weights).loss, quantizer(z[:, :12]).loss)


def test_channel_weights(tokenizer: KronosTokenizer) -> None:
    z, when, ones = series(), stamps(T, B), torch.ones(B, T)
    out = TokenizerLoss(tokenizer, [0, 0, 0, 2, 0, 0])(z, when, ones)
    full = tokenizer(z).recon_full
    close(out.parts["mse_full"], (full[..., 3] - z[..., 3]).square().mean().detach())


def test_the_fine_head_can_be_given_drawn_ids(model: Kronos, tokenizer: KronosTokenizer) -> None:
    z, when, ones = series(), stamps(T, B), torch.ones(B, T)

    def fine(condition: Any, seed: int) -> float:
        torch.manual_seed(seed)
        out = ModelLoss(model, tokenizer.encode, condition)(z, when, ones)
        return float(out.parts["loss_s2"])

    model.train()
    assert fine("true", 0) == fine("true", 1)
    assert len({fine("sampled", seed) for seed in range(3)}) > 1
    assert fine("sampled", 1) == fine("sampled", 1)
    model.eval()  # Validation is the same for both, and not left to chance.
    for part in (ModelLoss(model, tokenizer.encode, "sampled").eval(),):
        assert float(part(z, when, ones).parts["loss_s2"]) == fine("true", 0)


def test_the_tokenizer_is_neither_trained_nor_in_mixed_precision(
    model: Kronos, tokenizer: KronosTokenizer
) -> None:
    seen: list[torch.dtype] = []

    def encode(z: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(tokenizer.latents(z).dtype)
        return tokenizer.encode(z)

    loss = ModelLoss(model, encode)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in model.parameters()}
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss(series(), stamps(T, B), torch.ones(B, T)).loss
    mixed.backward()
    assert seen == [torch.float32]
    plain = loss(series(), stamps(T, B), torch.ones(B, T)).loss
    torch.testing.assert_close(mixed, plain, atol=0.02, rtol=0)
    assert all(p.grad is None for p in tokenizer.parameters())
