"""Checkpoints by hub id: the real client of the hub, over HTTP, from a hub on loopback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kronos_stream.errors import ModelError
from kronos_stream.model import Kronos, KronosTokenizer, checkpoints
from kronos_stream.model.checkpoints import revision_of

from ..engine.requests import tiny_pair
from .hub import Hub

MODEL, TOKENIZER = "someone/some-model", "someone/some-tokenizer"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A model and its tokenizer, each beside files that we have no use for."""
    for part, name in zip(tiny_pair(), (MODEL, TOKENIZER), strict=True):
        part.save_pretrained(tmp_path / "hub" / name)
        for more in ("README.md", "pytorch_model.bin"):
            (tmp_path / "hub" / name / more).write_text("not for us")
    with Hub(tmp_path / "hub", tags=("v1",)).serving() as hub:
        hub.instead_of_the_public_one(monkeypatch, tmp_path / "cache")
        yield hub


def refused(**options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        Kronos.from_pretrained(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_the_hub_has_is_what_was_saved(hub: Hub) -> None:
    pair = Kronos.from_pretrained(MODEL), KronosTokenizer.from_pretrained(TOKENIZER)
    assert revision_of(*pair) == revision_of(*tiny_pair())
    assert not any(part.training for part in pair)


def test_only_the_two_files_of_a_checkpoint_are_fetched(hub: Hub) -> None:
    Kronos.from_pretrained(MODEL)
    commit = hub.commit(MODEL)
    wanted = {(MODEL, commit, "config.json"), (MODEL, commit, "model.safetensors")}
    assert set(hub.asked) == wanted


@pytest.mark.parametrize("named", ["main", "v1", "commit"])
def test_a_revision_is_a_branch_a_tag_or_a_commit(named: str, hub: Hub) -> None:
    revision = hub.commit(MODEL) if named == "commit" else named
    Kronos.from_pretrained(MODEL, revision=revision)
    # What names a commit needs not be looked up.
    assert hub.resolved == ([] if named == "commit" else [(MODEL, named)])
    assert {commit for _, commit, _ in hub.asked} == {hub.commit(MODEL)}


def test_what_was_fetched_once_is_not_fetched_again(hub: Hub) -> None:
    Kronos.from_pretrained(MODEL)
    asked = len(hub.asked)
    Kronos.from_pretrained(MODEL)
    assert len(hub.asked) == asked


def test_what_was_fetched_once_needs_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    before = revision_of(Kronos.from_pretrained(MODEL))
    with Hub(tmp_path / "hub").serving() as gone:
        gone.instead_of_the_public_one(monkeypatch, tmp_path / "cache")
    assert revision_of(Kronos.from_pretrained(MODEL)) == before
    assert f"no folder {TOKENIZER!r}, and the hub did not give it" in refused(name=TOKENIZER)


def test_a_repository_that_the_hub_has_not(hub: Hub) -> None:
    message = refused(name="someone/else")
    assert "no folder 'someone/else', and the hub did not give it: 404" in message
    assert "Repository Not Found" in message


def test_a_revision_that_the_hub_has_not(hub: Hub) -> None:
    message = refused(name=MODEL, revision="v9")
    assert "Revision Not Found" in message
    assert "v9" in message


def test_a_repository_without_a_checkpoint(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "hub" / MODEL / "config.json").unlink()
    (tmp_path / "hub" / MODEL / "model.safetensors").unlink()
    assert "a checkpoint holds config.json and model.safetensors" in refused(name=MODEL)


class PeerClosedError(Exception):
    """An error of the HTTP library below the client: no OSError, and none of the client's."""


@pytest.mark.parametrize(
    "error", [OSError("no\nconnection"), PeerClosedError("no connection")], ids=repr
)
def test_a_download_that_breaks_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(checkpoints, "snapshot_download", download)
    assert refused(name=MODEL) == (
        f"model: no folder {MODEL!r}, and the hub did not give it: no connection"
    )
