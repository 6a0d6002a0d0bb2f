"""Two processes that train one model, as torchrun starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kronos_stream.cli import main
from tests.training.markets import frame, write

COMMAND = [
    *("tokenizer", "--window", "32", "--horizon", "4", "--steps", "4", "--batch", "2"),
    *("--layers", "1", "--d-model", "16", "--heads", "2", "--ff-dim", "24", "--log-every", "2"),
    *("--validation-windows", "5", "--threads", "1"),
]


@pytest.mark.integration
def test_two_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "bars", AAA=frame(400))
    paths = ["--bars", str(tmp_path / "bars"), "--out", str(tmp_path / "out")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "-m", "kronos_stream", "train", *COMMAND, *paths],
        capture_output=True,
        text=True,
        timeout=55,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    # The first process alone speaks and saves.
    assert done.stderr.count("done: step 4") == 1
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    parts = [(json.loads(line)["step"], json.loads(line)["part"]) for line in lines]
    assert parts == [(2, "train"), (4, "train"), (4, "validation")]
    assert (tmp_path / "out" / "best" / "model.safetensors").is_file()
    assert main(["train", *COMMAND, *paths]) == 2
    assert "the processes of torchrun: the run in" in capsys.readouterr().err
