"""The state of a run in its folder: whose it is, and what is told where it cannot be kept."""

from pathlib import Path

import pytest
import torch

from kronos_stream.errors import SettingsError
from kronos_stream.model import KronosTokenizer
from kronos_stream.training.optimiser import AdamW
from kronos_stream.training.shapes import tokenizer_config
from kronos_stream.training.state import Progress, State
from tests.training.markets import TINY

PROGRESS = Progress(3, 0.5, 2)


@pytest.fixture
def trained() -> tuple[KronosTokenizer, AdamW]:
    module = KronosTokenizer.from_config(tokenizer_config(TINY, dropout=0.0, s1_bits=4, s2_bits=4))
    return module, AdamW(module, 0.1)


Trained = tuple[KronosTokenizer, AdamW]


def test_what_was_saved_is_taken_up(trained: Trained, tmp_path: Path) -> None:
    State(tmp_path, {"--seed": 7}).save(PROGRESS, *trained)
    assert State(tmp_path, {"--seed": 7}).load(*trained, torch.device("cpu")) == PROGRESS
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize(
    ("kept", "named"),
    [(("best",), "best"), (("last",), "last"), (("best", "last"), "best and last")],
)
def test_a_run_without_its_state_is_not_written_over(
    kept: tuple[str, ...], named: str, trained: Trained, tmp_path: Path
) -> None:
    for name in kept:
        (tmp_path / name).mkdir()
    told = rf"--out: .* holds {named} of a run without its state.pt; remove"
    with pytest.raises(SettingsError, match=told):
        State(tmp_path, {}).load(*trained, torch.device("cpu"))


def test_a_full_disk_is_told_as_such_and_keeps_the_state_before(
    trained: Trained, tmp_path: Path
) -> None:
    state = State(tmp_path, {})
    state.save(PROGRESS, *trained)
    state.path.with_suffix(".tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        state.save(PROGRESS._replace(step=4), *trained)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert state.load(*trained, torch.device("cpu")) == PROGRESS
