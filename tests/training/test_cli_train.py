"""The command line: both stages from files, what is wrong in one line, checkpoints to use."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kronos_stream.cli import main
from kronos_stream.model import KronosPredictor
from kronos_stream.model.catalog import load_pair
from kronos_stream.model.checkpoints import revision_of
from kronos_stream.training.loop import Loop
from tests.threads import threads
from tests.training.commands import BITS, SHAPE, encoder, run
from tests.training.markets import WINDOW, frame, write


@pytest.fixture(autouse=True)
def single() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bars/, and both stages trained into tokenizer/ and model/."""
    folder = tmp_path_factory.mktemp("trained")
    write(folder / "bars", AAA=frame(400), BBB=frame(400, seed=1).drop(index=100))
    with threads(1):
        assert run(folder, "tokenizer", "tokenizer", *SHAPE, *BITS) == 0
        assert run(folder, "model", "model", *SHAPE, *encoder(folder)) == 0
    return folder


def config(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return read


def test_both_stages_make_a_pair_that_forecasts(trained: Path) -> None:
    model, tokenizer = load_pair(
        str(trained / "model" / "best"), str(trained / "tokenizer" / "best")
    )
    assert (model.s1_bits, model.s2_bits, model.max_context) == (4, 3, WINDOW)
    assert model.trained_with == revision_of(tokenizer)
    bars = frame(20).drop(columns="open_time")
    stamps = pd.Series(pd.date_range("2025-01-01", periods=24, freq="5min"))
    paths = KronosPredictor(model, tokenizer, device="cpu").predict_paths(
        bars, stamps[:20], stamps[20:], 4, sample_count=2
    )
    assert np.isfinite(paths).all()


def test_what_is_left_behind(trained: Path) -> None:
    data = json.loads((trained / "model" / "data.json").read_text())
    assert data["total"]["bars"] == 799
    assert data["symbols"]["BBB"]["gaps"] == 1
    assert data["train_until"] < data["validation_from"]
    settings = json.loads((trained / "model" / "settings.json").read_text())
    assert settings["sampling"]["context_loss_weight"] == 0
    assert (settings["sampling"]["split_low"], settings["sampling"]["split_high"]) == (12, 28)
    of_tokenizer = json.loads((trained / "tokenizer" / "settings.json").read_text())
    assert of_tokenizer["sampling"]["context_loss_weight"] == 1
    parts = [
        json.loads(line)["part"]
        for line in (trained / "model" / "metrics.jsonl").read_text().splitlines()
    ]
    assert parts == ["train", "train", "validation"]
    assert config(trained / "tokenizer" / "last")["group_size"] == 1


def test_the_same_command_again_finds_it_done(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "model" / "metrics.jsonl").read_text()
    assert run(trained, "model", "model", *SHAPE, *encoder(trained)) == 0
    assert "done: step 4" in capsys.readouterr().err
    assert (trained / "model" / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_says_how_to_go_on(
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    status: int,
) -> None:
    taken = Loop._step

    def step(self: Loop, at: int, batch: Any) -> Any:
        os.kill(os.getpid(), number)
        return taken(self, at, batch)

    out = f"stopped{status}"
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", step)
        assert run(trained, "model", out, *SHAPE, *encoder(trained)) == status
    assert (
        "stopped at step 1, not validated yet; the same command goes on" in capsys.readouterr().err
    )
    assert (trained / out / "last" / "config.json").is_file()
    assert run(trained, "model", out, *SHAPE, *encoder(trained)) == 0
    assert "done: step 4, best validation at step 4" in capsys.readouterr().err


def test_from_a_checkpoint(trained: Path) -> None:
    begun = str(trained / "model" / "best")
    more = ["--from", begun, "--fine-head-rotary", "none", "--dropout", "0.2", "--lr", "1e-9"]
    assert run(trained, "model", "tuned", *more, *encoder(trained)) == 0
    tuned = config(trained / "tuned" / "best")
    assert tuned == config(trained / "model" / "best") | {
        "fine_head_rotary": "none",
        **dict.fromkeys([k for k in tuned if k.endswith("dropout_p")], 0.2),
    }
    model, _ = load_pair(str(trained / "tuned" / "best"), str(trained / "tokenizer" / "best"))
    source, _ = load_pair(begun, str(trained / "tokenizer" / "best"))
    assert model.fine_head_rotary == "none"
    for one, other in zip(model.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_from_the_built_in_pair(trained: Path) -> None:
    more = ["--from", "builtin", "--steps", "1", "--tokenizer", "builtin"]
    assert run(trained, "model", "built", *more) == 0
    assert config(trained / "built" / "last")["max_context"] == WINDOW


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lr", "0"], "Invalid value for '--lr': 0.0 is not in the range x>0"),
        (["--split", "20"], "--split: expected LOW:HIGH in bars such as 96:232, got '20'"),
        (["--split", "20:40"], "--split: expected 2 <= LOW <= HIGH < window 32, got 20:40"),
        (["--min-segment", "9"], "--min-segment: expected more bars than the lowest split 12"),
        (["--warmup", "4"], "--warmup: expected fewer steps than --steps 4, got 4"),
        (["--calendar", "MARS"], "--calendar: expected 24/7 or a name of exchange_calendars"),
        (["--device", "cuda:0"], "--device: expected cpu, torch finds no GPU; got 'cuda:0'"),
        (["--device", "abacus"], "--device: expected cpu, cuda or cuda:N, got 'abacus'"),
        (["--lr", "nan"], "Invalid value for '--lr': expected a finite number, got nan"),
        (["--clip", "inf"], "Invalid value for '--clip': expected a finite number, got inf"),
        (["--dropout", "nan"], "Invalid value for '--dropout': expected a finite number, got nan"),
        (["--from", "/absent"], "--from: expected a folder with config.json"),
        (["--from", "builtin", "--heads", "4"], "--heads: expected none with --from"),
        (["--from", "builtin"], "--tokenizer: {} makes ids of 4+3 bits, the model of --from has"),
        (["--d-model", "15"], "d_model must be an even multiple of the 4 heads"),
        (["--tokenizer", "nope"], "--tokenizer: expected a folder with config.json"),
        (["--horizon", "100000"], "(--validation-share, --min-segment; --window 32 and --horizon"),
        (["--interval", "1m"], "--calendar, --interval 1m)"),
        (["--size", "huge"], "Invalid value for '--size'"),
    ],
)
def test_wrong_flags_are_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    if "cuda:0" in more and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    capsys.readouterr()
    assert run(trained, "model", "wrong", *encoder(trained), *more) == 2
    error = capsys.readouterr().err
    assert message.format(trained / "tokenizer" / "best") in error
    assert error.count("\n") == 1
    assert not (trained / "wrong").exists()


def test_wrong_paths_are_told_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "tokenizer", "out") == 2
    assert "--bars: expected a file or folder, there is none at" in capsys.readouterr().err
    write(tmp_path / "bars", AAA=frame(100).assign(close=-1.0))
    (tmp_path / "file").touch()
    assert run(tmp_path, "tokenizer", "file/where") == 2
    assert "--out: expected a folder that can be made" in capsys.readouterr().err
    assert run(tmp_path, "tokenizer", "some/where") == 2
    assert "AAA: close at open_time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--channel-weights", "1,2", "--channel-weights: expected six finite numbers of 0 or more"),
        ("--channel-weights", "1,1,nan,1,1,1", "not all 0, got 1.0,1.0,nan,1.0,1.0,1.0"),
        ("--channel-weights", "1,1,inf,1,1,1", "not all 0, got 1.0,1.0,inf,1.0,1.0,1.0"),
        ("--s1-bits", "40", "Invalid value for '--s1-bits': 40 is not in the range 1<=x<=16"),
        ("--s2-bits", "17", "Invalid value for '--s2-bits': 17 is not in the range 1<=x<=16"),
    ],
)
def test_wrong_flags_of_a_tokenizer(
    trained: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str, message: str
) -> None:
    assert run(trained, "tokenizer", "wrong", flag, value) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("stage", ["tokenizer", "model"])
def test_a_validation_part_without_a_scale_is_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    bars = frame(400)
    bars.loc[330:, "high"] = bars["high"].max()
    write(tmp_path / "bars", AAA=bars)
    more = encoder(trained) if stage == "model" else BITS
    assert run(tmp_path, stage, "out", *SHAPE, *more) == 2
    error = capsys.readouterr().err
    assert "--bars: the validation part: expected prices that move before" in error
    assert error.count("\n") == 1


def test_help_needs_no_torch(capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("tokenizer", "model"):
        assert main(["train", stage, "--help"]) == 0
        assert "--context-loss-weight" in capsys.readouterr().out
