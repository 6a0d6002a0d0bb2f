"""The kernels are compiled once, and where they cannot be had torch does their arithmetic."""

from pathlib import Path

import pytest
import torch

from kronos_stream.engine import compiler, native
from kronos_stream.engine.networks import Norm
from kronos_stream.model.transformer import RMSNorm

from .conftest import needs_compiler

CPU = torch.device("cpu")


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process that has not looked for a compiler, which takes no trouble, and an empty cache
    folder."""
    monkeypatch.setattr(native, "_tried", None)
    monkeypatch.setattr(compiler, "FLAGS", ("-O0", *compiler.FLAGS[1:]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["no-such-compiler", "false"])
@torch.inference_mode()
def test_without_a_compiler_torch_does_it(
    name: str, untried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "COMPILER", name)
    assert native.available() is None
    assert native.used().startswith("torch: ")
    x, norm = torch.randn(3, 16), RMSNorm(16)
    torch.testing.assert_close(Norm(norm, CPU)(x), norm(x))


def test_a_folder_that_cannot_be_written_leaves_it_to_torch(
    untried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (untried / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(untried / "file"))
    assert native.available() is None


@needs_compiler
@pytest.mark.parametrize("name", [".", "kernels"])
def test_a_folder_that_anybody_may_write_is_not_trusted(name: str, untried: Path) -> None:
    (untried / "kronos-stream" / "kernels").mkdir(parents=True)
    (untried / "kronos-stream" / name).chmod(0o777)
    assert native.available() is None
    assert "anybody may write" in native.used()


@needs_compiler
def test_a_folder_of_a_group_is_closed_to_it_and_its_library_made_anew(untried: Path) -> None:
    folder = untried / "kronos-stream" / "kernels"
    folder.mkdir(parents=True)
    for name in (".", "kernels"):
        (untried / "kronos-stream" / name).chmod(0o775)
    library = compiler.compiled()
    assert folder.stat().st_mode & 0o022 == folder.parent.stat().st_mode & 0o022 == 0
    library.write_bytes(b"planted")
    library.chmod(0o775)
    assert compiler.compiled() == library
    assert library.read_bytes() != b"planted"


@needs_compiler
def test_a_link_is_not_trusted(untried: Path) -> None:
    (untried / "kronos-stream").mkdir()
    (untried / "kronos-stream" / "kernels").symlink_to(untried)
    assert native.available() is None
    assert "a link" in native.used()


@needs_compiler
def test_a_spoilt_library_is_made_anew(untried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = compiler.compiled()
    library.write_bytes(b"junk")
    assert native.available() is None
    monkeypatch.setattr(native, "_tried", None)
    assert native.available() is not None
    assert native.used() == "compiled"


@needs_compiler
def test_without_a_home_torch_does_it(untried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    assert native.available() is None
    assert "home directory" in native.used()


@needs_compiler
def test_it_is_compiled_once(untried: Path) -> None:
    library = compiler.compiled()
    made = library.stat().st_mtime_ns
    assert compiler.compiled() == library
    assert library.stat().st_mtime_ns == made
    assert list(library.parent.iterdir()) == [library]
