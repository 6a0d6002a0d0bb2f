"""Every value that the upstream code computed from the two official-layout checkpoints."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kronos_stream.model import Kronos, KronosPredictor, KronosTokenizer
from kronos_stream.model.generate import generate
from kronos_stream.model.sampling import Sampling

GREEDY = Sampling(top_k=1)


class Golden:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with np.load(folder / "vectors.npz") as file:
            self.values = {name: torch.from_numpy(file[name]) for name in file.files}
        self.model = Kronos.from_pretrained(folder / "model")
        self.tokenizer = KronosTokenizer.from_pretrained(folder / "tokenizer")

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.values[name]

    def close(self, ours: torch.Tensor, name: str) -> None:
        torch.testing.assert_close(
            ours.detach(), self[name], atol=1e-4, rtol=0, msg=lambda m: f"{name}: {m}"
        )


@pytest.fixture(params=["tiny", "tiny-fixed-te"])
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return Golden(shared / "golden" / request.param)


def test_tokenizer(golden: Golden) -> None:
    x = golden["x"]
    latents = golden.tokenizer.latents(x)
    certain = ((latents / latents.norm(dim=-1, keepdim=True)).abs() > 1e-5).all(-1)
    s1, s2 = golden.tokenizer.encode(x)
    assert torch.equal(s1[certain], golden["s1"][certain])
    assert torch.equal(s2[certain], golden["s2"][certain])
    assert torch.equal(golden.tokenizer.encode_full(x)[certain], golden["token_full"][certain])
    golden.close(golden.tokenizer.decode(golden["s1"], golden["s2"]), "decoded")
    out = golden.tokenizer(x)
    golden.close(out.recon_coarse, "recon_coarse")
    golden.close(out.recon_full, "recon_full")
    golden.close(out.codes, "quantized")
    golden.close(out.loss, "quantizer_loss_eval")
    golden.close(golden.tokenizer.train()(x).loss, "quantizer_loss_train")


def test_logits(golden: Golden) -> None:
    model, s1, s2 = golden.model, golden["s1"], golden["s2"]
    hidden = model.hidden(s1, s2, golden["stamp"])
    golden.close(hidden, "context")
    golden.close(model.coarse_logits(hidden), "s1_logits")
    golden.close(model.coarse_logits(model.hidden(s1, s2)), "s1_logits_no_stamp")
    chosen = model.coarse_logits(hidden)[:, -1].argmax(-1)
    assert torch.equal(chosen, golden["s1_greedy_last"][:, 0])
    golden.close(model.fine_logits_last(hidden, chosen), "s2_logits_last")


def test_training_forward(golden: Golden) -> None:
    s1, s2 = golden["s1"], golden["s2"]
    coarse, fine = golden.model.train()(s1[:, :-1], s2[:, :-1], golden["stamp"][:, :-1], s1[:, 1:])
    golden.close(coarse, "train_s1_logits")
    golden.close(fine, "train_s2_logits")
    loss_s1 = torch.nn.functional.cross_entropy(coarse.flatten(0, 1), s1[:, 1:].flatten())
    loss_s2 = torch.nn.functional.cross_entropy(fine.flatten(0, 1), s2[:, 1:].flatten())
    golden.close(loss_s1, "train_loss_s1")
    golden.close(loss_s2, "train_loss_s2")
    golden.close((loss_s1 + loss_s2) / 2, "train_loss")


@pytest.mark.parametrize("case", ["greedy_fits", "greedy_rolls"])
def test_greedy_rollout(golden: Golden, case: str) -> None:
    x, steps = golden["x"], 16
    known = x.shape[1] - steps
    z = generate(
        golden.model,
        golden.tokenizer,
        x[:, :known],
        golden["stamp"],
        torch.zeros(x.shape[0], 1, steps, 2),
        sampling=GREEDY,
        max_context=int(golden[f"{case}_max_context"]),
    )
    golden.close(z[:, 0], f"{case}_pred")


def test_predictor(golden: Golden, shared: Path) -> None:
    bars = pd.read_csv(shared / "golden" / "a_share_5m.csv", parse_dates=["timestamps"])
    series, total, _ = golden["x"].shape
    expected = pd.read_csv(golden.folder / "predict_greedy.csv")
    known = total - 16
    predictor = KronosPredictor(golden.model, golden.tokenizer, device="cpu")
    frames = [bars.iloc[b * 150 : b * 150 + total] for b in range(series)]
    predicted = predictor.predict_batch(
        [frame.iloc[:known] for frame in frames],
        [frame["timestamps"].iloc[:known] for frame in frames],
        [frame["timestamps"].iloc[known:] for frame in frames],
        16,
        top_k=1,
        sample_count=1,
    )
    for b, (ours, frame) in enumerate(zip(predicted, frames, strict=True)):
        std = frame.iloc[:known][list(ours.columns)].std(ddof=0).to_numpy()
        theirs = expected[expected["series"] == b][list(ours.columns)].to_numpy()
        # The tables hold nine digits of what was computed in float32.
        tolerance = 1e-4 * std + 1e-6 * np.abs(theirs)
        assert (np.abs(ours.to_numpy() - theirs) <= tolerance).all()


def test_predictor_of_prices_alone(golden: Golden, shared: Path) -> None:
    bars = pd.read_csv(shared / "golden" / "a_share_5m.csv", parse_dates=["timestamps"])
    series, total, _ = golden["x"].shape
    expected = pd.read_csv(golden.folder / "predict_greedy_price_only.csv")
    frame = bars.iloc[(series - 1) * 150 : (series - 1) * 150 + total]
    ours = KronosPredictor(golden.model, golden.tokenizer, device="cpu").predict(
        frame.iloc[: total - 16][["open", "high", "low", "close"]],
        frame["timestamps"].iloc[: total - 16],
        frame["timestamps"].iloc[total - 16 :],
        16,
        top_k=1,
    )
    np.testing.assert_allclose(
        ours.to_numpy(), expected[list(ours.columns)].to_numpy(), atol=1e-4, rtol=1e-5
    )
