"""What a model may know of an open time: a feature that is left out says nothing, ever."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kronos_stream.model.catalog import BUILTIN_FOLDER
from kronos_stream.model.kronos import STAMP_SIZES, Kronos
from kronos_stream.training.settings import TIME_FEATURES
from kronos_stream.training.shapes import model_config
from tests.threads import threads
from tests.training.commands import BITS, SHAPE, encoder, run
from tests.training.markets import TINY, WINDOW, frame, write

FRIDAY = (35, 14, 4, 27, 11)
"""Minute, hour, weekday, day, month."""
OTHER = {"minute": 5, "hour": 3, "weekday": 0, "day": 2, "month": 3}


def model(*, learn_te: bool = True) -> Kronos:
    torch.manual_seed(3)
    config = model_config(TINY, s1_bits=4, s2_bits=3, dropout=0.0, window=WINDOW)
    return Kronos.from_config(config | {"learn_te": learn_te}, "a test").eval()


def answers(asked: Kronos, **changes: int) -> Tensor:
    """Coarse logits of some bars that open on FRIDAY, or at another time."""
    stamp = [changes.get(name, v) for name, v in zip(TIME_FEATURES, FRIDAY, strict=True)]
    ids = torch.arange(8).reshape(1, 8)
    stamps = torch.tensor(stamp).expand(1, 8, 5)
    with torch.no_grad():
        return asked.coarse_logits(asked.hidden(ids, ids % 8, stamps))


def heard(asked: Kronos) -> set[str]:
    """The features that change an answer."""
    return {n for n in OTHER if not torch.equal(answers(asked), answers(asked, **{n: OTHER[n]}))}


def test_the_names_are_those_of_the_tables() -> None:
    assert tuple(STAMP_SIZES) == TIME_FEATURES


@pytest.mark.parametrize("learn_te", [True, False])
def test_what_is_left_out_says_nothing(learn_te: bool) -> None:
    asked = model(learn_te=learn_te)
    assert heard(asked) == set(TIME_FEATURES)
    asked.time_emb.leave_out({"day", "month"})
    assert heard(asked) == {"minute", "hour", "weekday"}


def test_it_keeps_the_level_of_its_table() -> None:
    asked = model()
    before = asked.time_emb.state_dict()["day_embed.weight"].mean(0)
    asked.time_emb.leave_out({"day"})
    after = asked.time_emb.state_dict()["day_embed.weight"]
    assert torch.equal(after, before.expand(STAMP_SIZES["day"], -1))


def test_the_built_in_model_does_not_know_the_date() -> None:
    assert heard(Kronos.from_pretrained(BUILTIN_FOLDER / "model")) == {"minute", "hour", "weekday"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bars/, and a tokenizer in tokenizer/."""
    made = tmp_path_factory.mktemp("features")
    write(made / "bars", AAA=frame(400))
    with threads(1):
        assert run(made, "tokenizer", "tokenizer", *SHAPE, *BITS) == 0
    return made


def train(folder: Path, out: str, *more: str) -> int:
    shape = [] if "--from" in more else SHAPE
    with threads(1):
        return run(folder, "model", out, *shape, *encoder(folder), *more)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"minute", "hour", "weekday"}),
        (["--time-features", "month,day,weekday,hour,minute"], set(TIME_FEATURES)),
        (["--time-features", "hour"], {"hour"}),
        (["--time-features", "none"], set()),
    ],
)
def test_training_does_not_bring_it_back(
    folder: Path, flags: list[str], expected: set[str]
) -> None:
    out = "-".join(["model", *sorted(expected)])
    assert train(folder, out, "--lr", "0.01", *flags) == 0
    for kept in ("best", "last"):
        assert heard(Kronos.from_pretrained(folder / out / kept)) == expected


def test_a_checkpoint_forgets_what_it_knew(folder: Path) -> None:
    assert train(folder, "all", "--time-features", ",".join(TIME_FEATURES)) == 0
    begun = str(folder / "all" / "best")
    assert train(folder, "forgot", "--from", begun) == 0
    assert heard(Kronos.from_pretrained(folder / "forgot" / "best")) == {
        *("minute", "hour", "weekday")
    }


def test_a_run_goes_on_with_the_features_it_was_begun_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, "begun", "--time-features", "hour") == 0
    capsys.readouterr()
    assert train(folder, "begun") == 2
    error = capsys.readouterr().err
    assert "--time-features: the run in" in error
    assert "was begun with ['hour'], got ['minute', 'hour', 'weekday']" in error


@pytest.mark.parametrize("names", ["hour,second", "", "hour,", "none,hour"])
def test_an_unknown_one_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], names: str
) -> None:
    capsys.readouterr()
    assert train(folder, "wrong", "--time-features", names) == 2
    assert capsys.readouterr().err == (
        "kronos-stream: --time-features: expected some of minute,hour,weekday,day,month, or none, "
        f"got {names!r}\n"
    )
