"""Several processes that train one model: what they average, how much each counts, and two in the
environment that torchrun gives them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kronos_stream.cli import main
from kronos_stream.training.ranks import Ranks
from tests.training.markets import frame, write

COMMAND = [
    *("tokenizer", "--window", "32", "--horizon", "4", "--steps", "4", "--batch", "2"),
    *("--layers", "1", "--d-model", "16", "--heads", "2", "--ff-dim", "24", "--log-every", "2"),
    *("--validation-windows", "5", "--threads", "1"),
]


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_two_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "bars", AAA=frame(400))
    paths = ["--bars", str(tmp_path / "bars"), "--out", str(tmp_path / "out")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "kronos_stream", "train", *COMMAND, *paths],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=170)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    # The first process alone speaks and saves.
    assert "done: step 4" in errors[0]
    assert "step 4" not in errors[1]
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    parts = [(json.loads(line)["step"], json.loads(line)["part"]) for line in lines]
    assert parts == [(2, "train"), (4, "train"), (4, "validation")]
    assert (tmp_path / "out" / "best" / "model.safetensors").is_file()
    assert main(["train", *COMMAND, *paths]) == 2
    assert "the processes of torchrun: the run in" in capsys.readouterr().err


def test_gradients_are_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    # The other process has ours plus 2.
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sent: sent.mul_(2).add_(2))
    gradients = [torch.ones(2, 2), torch.full((3,), 5.0)]
    Ranks(0, 2, torch.device("cpu")).average(gradients)
    assert gradients[0].tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert gradients[1].tolist() == [6.0, 6.0, 6.0]
    assert Ranks(0, 2, torch.device("cpu")).any(False)


def test_the_processes_mean_is_that_of_all_their_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """One has 30 bars that count and a mean of 2, the other 10 and a mean of 4."""
    device = torch.device("cpu")
    for own, other, means in ((30.0, 10.0, (2.0, 4.0)), (0.0, 5.0, (0.0, 3.0))):
        shares = []
        for mine, theirs in ((own, other), (other, own)):
            monkeypatch.setattr(
                torch.distributed, "all_reduce", lambda sent, theirs=theirs: sent.add_(theirs)
            )
            shares.append(float(Ranks(0, 2, device).share(torch.tensor(mine))))
        whole = (own * means[0] + other * means[1]) / (own + other)
        assert sum(s * m for s, m in zip(shares, means, strict=True)) / 2 == pytest.approx(whole)
    assert Ranks(0, 1, device).share(torch.tensor(7.0)) == 1
