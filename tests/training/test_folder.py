"""The folder of a run: one run at a time, and what cannot be written is told."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from kronos_stream.errors import InputError
from kronos_stream.training.folder import held


def test_two_runs_cannot_hold_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "model"
    told = r"--out: .*model: another run is writing"
    with held(out), pytest.raises(InputError, match=told), held(out):
        pass
    with held(out):
        assert out.is_dir()


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "best").touch()
    told = r"--out: .*best: cannot be written: File exists"
    with pytest.raises(InputError, match=told), held(tmp_path):
        (tmp_path / "best").mkdir()
    told = r"--out: .*: cannot be written: I/O error"
    with pytest.raises(InputError, match=told), held(tmp_path):
        raise SafetensorError("I/O error: No space left on device")


def test_errors_of_others_are_not_the_folders(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), held(tmp_path):
        raise BrokenPipeError
    with pytest.raises(FileNotFoundError), held(tmp_path / "out"):
        (tmp_path / "bars.csv").open()
    with pytest.raises(InputError, match=r"--out: .*: cannot be written: No space"), held(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
