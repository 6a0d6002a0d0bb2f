"""Loading and saving in the official layout: config.json beside model.safetensors.

A name is a folder or a hub id. Nothing is ever unpickled.
"""

import hashlib
import inspect
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Self

import msgspec.inspect
import torch
from huggingface_hub import snapshot_download
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import ModelError, first_line
from ..expected import describe

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
_COMPUTED: Final = ("inv_freq", "basis", "group_basis")
"""Buffers of official checkpoints from which nothing is computed: they may be missing."""
_FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Of stored weights."""

Count = Annotated[int, Meta(ge=1)]
Bits = Annotated[int, Meta(ge=1, le=24)]
Share = Annotated[float, Meta(ge=0, le=1)]


def arguments(local: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an `__init__` whose first statement passes its `locals()`."""
    return {k: v for k, v in local.items() if k != "self" and not k.startswith("__")}


class Checkpointed(nn.Module):
    """A module that is made from the keys of its config.json, which its `__init__` names and
    annotates."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = {key: value for key, value in config.items() if value is not None}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = CONFIG) -> Self:
        """A module with fresh weights; ModelError names a missing or mistyped key."""
        parameters = list(inspect.signature(cls).parameters.values())
        missing = [p.name for p in parameters if p.default is p.empty and p.name not in config]
        if missing:
            raise ModelError(
                f"{source}: a {cls.__name__} needs the keys {', '.join(missing)}, "
                f"found {', '.join(sorted(config)) or 'none'}"
            )
        known = {p.name: config[p.name] for p in parameters if p.name in config}
        for parameter in parameters:
            if parameter.name in known:
                _check(parameter, known[parameter.name], source)
        try:
            return cls(**known)
        except (TypeError, ValueError, RuntimeError, MemoryError) as error:
            raise ModelError(
                f"{source}: no {cls.__name__} can be built of it: {first_line(error)}"
            ) from error

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> Self:
        """The checkpoint in the folder or hub id `name`, float32, in eval mode."""
        folder = resolve(name, revision)
        config = _read_config(folder / CONFIG)
        module = cls.from_config(config, str(folder / CONFIG))
        _load(module, folder / WEIGHTS)
        return module.eval()

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Writes config.json and model.safetensors, the float weights as `dtype` if given."""
        if dtype is not None and dtype not in _FLOATS:
            raise ModelError(f"dtype: expected {_names(_FLOATS)}, got {dtype!r}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(self.config, indent=2, sort_keys=True) + "\n")
        tensors = {
            name: (tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor)
            .detach()
            .contiguous()
            for name, tensor in self.state_dict().items()
        }
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        # The library makes a file that only its owner can read.
        shutil.copymode(folder / CONFIG, folder / WEIGHTS)


def _check(parameter: inspect.Parameter, value: Any, source: str) -> None:
    try:
        msgspec.convert(value, parameter.annotation)
    except msgspec.ValidationError as error:
        expected = describe(msgspec.inspect.type_info(parameter.annotation))
        raise ModelError(
            f"{source}: {parameter.name}: expected {expected}, got {value!r}"
        ) from error


def resolve(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: `name` itself if it is one, else fetched from the hub."""
    if not isinstance(name, str | Path):
        raise ModelError(f"model: expected a folder or a hub id, got {name!r}")
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or str(name).startswith(".") or str(name).count("/") != 1:
        raise ModelError(
            f"model: expected a folder with {CONFIG} and {WEIGHTS}, or a hub id such as "
            f"NeoQuasar/Kronos-small, got {str(name)!r}"
        )
    try:
        return Path(
            snapshot_download(str(name), revision=revision, allow_patterns=[CONFIG, WEIGHTS])
        )
    except Exception as error:  # The hub's own, and whatever the HTTP library below it raises.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"model: no folder {str(name)!r}, and the hub did not give it: {reason}"
        ) from error


def revision_of(*modules: Checkpointed) -> str:
    """Hex digest of configs and weights: what was loaded, never from where."""
    h = hashlib.blake2b(digest_size=16)
    for module in modules:
        h.update(json.dumps(module.config, sort_keys=True).encode())
        for name, tensor in sorted(module.state_dict().items()):
            if name.rsplit(".", 1)[-1] in _COMPUTED:
                continue
            h.update(name.encode())
            h.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return h.hexdigest()


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with _reading(path):
            config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: expected a JSON object: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(config).__name__}")
    return config


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ModelError(f"{path}: not found; a checkpoint holds {CONFIG} and {WEIGHTS}") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error


def _load(module: nn.Module, path: Path) -> None:
    try:
        with _reading(path):
            # The library says of any file that it cannot open that there is none.
            path.open("rb").close()
            tensors = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file: {error}") from error
    expected = module.state_dict()
    computed = {name for name in expected if name.rsplit(".", 1)[-1] in _COMPUTED}
    missing = sorted(expected.keys() - tensors.keys() - computed)
    unknown = sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise ModelError(
            f"{path}: the weights do not belong to the config beside them: "
            f"{len(missing)} missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the config says "
                f"{tuple(expected[name].shape)}"
            )
        if expected[name].is_floating_point() and tensor.dtype not in _FLOATS:
            raise ModelError(f"{path}: {name} is {tensor.dtype}, expected {_names(_FLOATS)}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: {name} holds values that are not finite")
    module.load_state_dict(tensors, strict=False)


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(map(str, dtypes))
