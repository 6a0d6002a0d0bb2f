"""Side by side with the peer package, on seeded bars and fresh random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kronos_stream.model import Kronos, KronosPredictor, KronosTokenizer
from kronos_stream.model.features import scale_of

from .peer import MINI, SMALL, TINY, PeerPredictor, Shape, bars, peer_pair, stamps


class Pair:
    """The peer's modules and ours with the same weights, through the official layout."""

    def __init__(self, shape: Shape, folder: Path) -> None:
        self.peer_model, self.peer_tokenizer = peer_pair(shape)
        self.peer_model.save_pretrained(folder / "model")
        self.peer_tokenizer.save_pretrained(folder / "tokenizer")
        self.model = Kronos.from_pretrained(folder / "model")
        self.tokenizer = KronosTokenizer.from_pretrained(folder / "tokenizer")


@pytest.fixture(scope="module", params=[TINY, MINI, SMALL], ids=["tiny", "mini", "small"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(request.param, tmp_path_factory.mktemp("peer"))


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    series = [bars(96, seed) for seed in range(2)]
    return torch.from_numpy(np.stack([scale_of(v).normalise(v) for v in series]))


def close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@torch.no_grad()
def test_tokenizer(pair: Pair, x: torch.Tensor) -> None:
    s1, s2 = pair.peer_tokenizer.encode(x, half=True)
    latents = torch.nn.functional.normalize(pair.tokenizer.latents(x), dim=-1)
    certain = (latents.abs() > 1e-5).all(-1)
    ours1, ours2 = pair.tokenizer.encode(x)
    assert torch.equal(ours1[certain], s1[certain])
    assert torch.equal(ours2[certain], s2[certain])
    close(pair.tokenizer.decode(s1, s2), pair.peer_tokenizer.decode([s1, s2], half=True))
    (coarse, full), loss, codes, _ = pair.peer_tokenizer(x)
    ours = pair.tokenizer(x)
    close(ours.recon_coarse, coarse)
    close(ours.recon_full, full)
    close(ours.loss, loss)
    close(ours.codes, codes)


@torch.no_grad()
def test_logits(pair: Pair, x: torch.Tensor) -> None:
    s1, s2 = pair.tokenizer.encode(x)
    when = stamps(x.shape[1], x.shape[0])
    coarse, context = pair.peer_model.decode_s1(s1, s2, when)
    hidden = pair.model.hidden(s1, s2, when)
    close(hidden, context)
    close(pair.model.coarse_logits(hidden), coarse)
    chosen = coarse[:, -1].argmax(-1)
    theirs = pair.peer_model.decode_s2(context, chosen[:, None])[:, -1]
    close(pair.model.fine_logits_last(hidden, chosen), theirs)


@torch.no_grad()
def test_training_forward(pair: Pair, x: torch.Tensor) -> None:
    s1, s2 = pair.tokenizer.encode(x)
    when = stamps(x.shape[1], x.shape[0])[:, :-1]
    inputs = (s1[:, :-1], s2[:, :-1])
    pair.peer_model.train()
    pair.model.train()
    try:
        theirs = pair.peer_model(
            *inputs, stamp=when, use_teacher_forcing=True, s1_targets=s1[:, 1:]
        )
        ours = pair.model(*inputs, when, s1[:, 1:])
    finally:
        pair.peer_model.eval()
        pair.model.eval()
    close(ours, theirs)


@pytest.mark.parametrize("max_context", [512, 40], ids=["fits", "rolls"])
def test_greedy_predictor(pair: Pair, max_context: int) -> None:
    frame = pd.DataFrame(bars(48), columns=["open", "high", "low", "close", "volume", "amount"])
    when = pd.Series(pd.date_range("2024-03-04", periods=56, freq="5min"))
    call = (frame, when[:48], when[48:], 8)
    options = {"T": 1.0, "top_k": 1, "top_p": 1.0, "sample_count": 1, "verbose": False}
    theirs = PeerPredictor(
        pair.peer_model, pair.peer_tokenizer, device="cpu", max_context=max_context
    ).predict(*call, **options)
    ours = KronosPredictor(
        pair.model, pair.tokenizer, device="cpu", max_context=max_context
    ).predict(*call, **options)
    std = frame.std(ddof=0).to_numpy()
    assert (np.abs(ours.to_numpy() - theirs.to_numpy()) <= 1e-4 * std + 1e-5).all()


def test_saved_for_the_peer(tmp_path: Path) -> None:
    """What we save, the peer loads, and it computes the same."""
    torch.manual_seed(3)
    model = Kronos(**TINY.model).eval()
    tokenizer = KronosTokenizer(**TINY.tokenizer).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    peer_model, peer_tokenizer = peer_pair(TINY, seed=9)
    peer_model = type(peer_model).from_pretrained(tmp_path / "model")
    peer_tokenizer = type(peer_tokenizer).from_pretrained(tmp_path / "tokenizer")
    s1 = torch.randint(0, 256, (2, 20))
    when = stamps(20, 2)
    with torch.no_grad():
        close(
            model.coarse_logits(model.hidden(s1, s1, when)), peer_model.decode_s1(s1, s1, when)[0]
        )
        close(tokenizer.decode(s1, s1), peer_tokenizer.decode([s1, s1], half=True))
