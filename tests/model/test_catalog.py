"""Which model a name means, and which tokenizer goes with it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kronos_stream.errors import ModelError
from kronos_stream.model import Kronos
from kronos_stream.model.catalog import BUILTIN, TOKENIZERS, load_pair
from kronos_stream.model.checkpoints import revision_of

from ..engine.requests import tiny_pair
from .hub import Hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with model/ and tokenizer/."""
    for part, name in zip(tiny_pair(), ("model", "tokenizer"), strict=True):
        part.save_pretrained(tmp_path / "pair" / name)
    return tmp_path / "pair"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that holds every official checkpoint, all tiny."""
    model, tokenizer = tiny_pair()
    for name in (*TOKENIZERS, "someone/finetuned"):
        model.save_pretrained(tmp_path / "hub" / name)
    for name in TOKENIZERS.values():
        tokenizer.save_pretrained(tmp_path / "hub" / name)
    with Hub(tmp_path / "hub", tags=("v1",)).serving() as hub:
        hub.instead_of_the_public_one(monkeypatch, tmp_path / "cache")
        yield hub


EXPECTED = revision_of(*tiny_pair())


def test_builtin() -> None:
    model, tokenizer = load_pair(BUILTIN)
    assert not model.training
    assert not tokenizer.training
    assert (model.s1_bits, model.s2_bits) == (tokenizer.s1_bits, tokenizer.s2_bits)
    assert model.max_context == 256
    with torch.no_grad():
        s1, s2 = tokenizer.encode(torch.zeros(1, 3, 6))
        assert torch.isfinite(model.coarse_logits(model.hidden(s1, s2))).all()


def test_a_folder_with_both_parts(folder: Path) -> None:
    assert revision_of(*load_pair(str(folder))) == EXPECTED


def test_the_model_of_a_folder_with_another_tokenizer(folder: Path, tmp_path: Path) -> None:
    other = tiny_pair(seed=4)[1]
    other.save_pretrained(tmp_path / "other")
    model, tokenizer = load_pair(str(folder), str(tmp_path / "other"))
    assert revision_of(model, tokenizer) == revision_of(tiny_pair()[0], other)
    # Its folder, or one that holds both parts.
    shutil.move(tmp_path / "other", tmp_path / "both" / "tokenizer")
    assert revision_of(*load_pair(str(folder), str(tmp_path / "both"))) == revision_of(model, other)


def test_another_tokenizer_than_the_model_was_trained_with_is_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, other = (tiny_pair(seed=seed)[1] for seed in (0, 4))
    model, _ = tiny_pair(tokenizer=revision_of(own))
    model.save_pretrained(folder / "model")
    other.save_pretrained(tmp_path / "other")
    load_pair(str(folder))
    assert caplog.messages == []
    load_pair(str(folder), str(tmp_path / "other"))
    (message,) = caplog.messages
    assert f"trained with another one: revision {revision_of(own)}" in message
    assert message.endswith(f"other has {revision_of(other)}")


def test_one_part_with_its_tokenizer_named(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "model", tmp_path / "alone")
    pair = load_pair(str(tmp_path / "alone"), str(folder / "tokenizer"))
    assert revision_of(*pair) == EXPECTED


def test_one_part_beside_its_tokenizer(folder: Path) -> None:
    assert revision_of(*load_pair(str(folder / "model"))) == EXPECTED


def test_one_part_without_a_tokenizer_asks_for_it(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(ModelError, match=r"tokenizer: name the one .*--tokenizer"):
        load_pair(str(folder / "model"))


def test_a_folder_with_both_parts_where_the_tokenizer_is_missing(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(ModelError, match="tokenizer"):
        load_pair(str(folder))


def test_a_folder_with_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds neither model/config.json nor config.json"):
        load_pair(str(tmp_path))


def test_an_absent_folder_lists_what_a_name_can_be(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_pair(str(tmp_path / "absent"))
    message = str(caught.value)
    assert str(tmp_path / "absent") in message
    for name in ("builtin", "model/ and tokenizer/", "NeoQuasar/Kronos-small"):
        assert name in message


@pytest.mark.parametrize(
    ("size", "tokenizer"),
    [("mini", "2k"), ("small", "base"), ("base", "base"), ("large", "base")],
)
def test_official_ids_find_their_tokenizer(size: str, tokenizer: str, hub: Hub) -> None:
    pair = load_pair(f"NeoQuasar/Kronos-{size}", revision="v1")
    assert revision_of(*pair) == EXPECTED
    # A revision is a commit of the model's repository: the tokenizer's has no such commit.
    assert hub.resolved == [
        (f"NeoQuasar/Kronos-{size}", "v1"),
        (f"NeoQuasar/Kronos-Tokenizer-{tokenizer}", "main"),
    ]


def test_other_hub_ids_need_their_tokenizer_named(hub: Hub) -> None:
    with pytest.raises(ModelError, match="--tokenizer"):
        load_pair("someone/finetuned")
    assert hub.resolved == []
    load_pair("someone/finetuned", "NeoQuasar/Kronos-Tokenizer-base")
    names = [name for name, _ in hub.resolved]
    assert names == ["someone/finetuned", "NeoQuasar/Kronos-Tokenizer-base"]


def test_a_named_tokenizer_goes_before_the_official_one(folder: Path, hub: Hub) -> None:
    load_pair("NeoQuasar/Kronos-small", str(folder / "tokenizer"))
    assert [name for name, _ in hub.resolved] == ["NeoQuasar/Kronos-small"]


def test_parts_that_do_not_fit_are_refused(folder: Path) -> None:
    wider, _ = tiny_pair(s1_bits=7)
    wider.save_pretrained(folder / "model")
    with pytest.raises(ModelError, match=r"makes ids of 6\+6 bits, .* expects 7\+6"):
        load_pair(str(folder))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"max_context": 96}, 96),
        ({"max_context": None}, 512),
        ({"max_context": None, "n_layers": 4, "d_model": 256, "ff_dim": 512, "n_heads": 4}, 2_048),
        ({"max_context": 300, "n_layers": 4, "d_model": 256, "ff_dim": 512, "n_heads": 4}, 300),
        ({"max_context": None, "n_layers": 4, "d_model": 256, "ff_dim": 512, "n_heads": 8}, 512),
    ],
    ids=["named", "absent", "mini's shape", "mini's shape, named", "other heads"],
)
def test_context_of_a_model(shape: dict[str, Any], expected: int) -> None:
    assert Kronos(**tiny_pair()[0].config | shape).max_context == expected


def test_only_official_models_have_a_tokenizer_in_the_table() -> None:
    assert {name.rsplit("-", 1)[-1] for name in TOKENIZERS} == {"mini", "small", "base", "large"}
