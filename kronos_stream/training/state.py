"""What a killed run goes on from: one file, replaced whole, and nothing in it is unpickled."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from ..errors import SettingsError
from ..model.checkpoints import CONFIG, WEIGHTS, Checkpointed
from .optimiser import AdamW

STATE: Final = "state.pt"
BEST: Final = "best"
LAST: Final = "last"
_UNREADABLE: Final = (
    OSError,
    RuntimeError,
    KeyError,
    TypeError,
    ValueError,
    EOFError,
    pickle.PickleError,
)


class Progress(NamedTuple):
    """How far a run is, and the best validation so far."""

    step: int = 0
    best: float | None = None
    best_step: int | None = None


class State:
    """The saved state in a folder. Windows, learning rate and dropout follow from the step, so
    weights, moments and the step are all of it."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """`settings`: all that shapes what is learned, by the names that errors give them; what
        follows from others comes after them."""
        self.path = folder / STATE
        self._settings = settings

    def save(self, progress: Progress, module: nn.Module, optimiser: AdamW) -> None:
        """A kill at any moment leaves the old state or the new one."""
        whole = {
            "settings": json.dumps(self._settings),
            "progress": dict(progress._asdict()),
            "module": module.state_dict(),
            "optimiser": optimiser.state_dict(),
        }
        partial = self.path.with_suffix(".tmp")
        try:
            with partial.open("wb") as file:
                torch.save(whole, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            # Closing its archive fails as well, and hides why.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        partial.replace(self.path)

    def load(self, module: nn.Module, optimiser: AdamW, device: torch.device) -> Progress:
        """Fills both, where there is a state. SettingsError where it belongs to another run, or
        where a run left nothing but its checkpoints."""
        if not self.path.exists():
            kept = [name for name in (BEST, LAST) if (self.path.parent / name).exists()]
            if kept:
                raise SettingsError(
                    f"--out: {self.path.parent} holds {' and '.join(kept)} of a run without its "
                    f"{STATE}; remove them to begin anew there, or give another --out"
                )
            return Progress()
        try:
            whole = torch.load(self.path, map_location=device, weights_only=True)
            settings = json.loads(whole["settings"])
            progress = Progress(**whole["progress"])
        except _UNREADABLE as error:
            raise SettingsError(
                f"--out: {self.path} cannot be read ({type(error).__name__}); remove the folder to "
                "begin anew"
            ) from error
        # In the order of `self._settings`: what differs as a consequence of a flag comes after it.
        for name in (*self._settings, *sorted(settings.keys() - self._settings.keys())):
            now, then = self._settings.get(name), settings.get(name)
            if now != then:
                raise SettingsError(
                    f"{name}: the run in {self.path.parent} was begun with {then!r}, got "
                    f"{now!r}; give the same, or another --out"
                )
        module.load_state_dict(whole["module"])
        optimiser.load_state_dict(whole["optimiser"])
        return progress


def save_checkpoint(module: Checkpointed, folder: Path) -> None:
    """The official layout, each file replaced whole."""
    partial = folder.with_name(f".{folder.name}.tmp")
    # A kill can have left half a file there.
    shutil.rmtree(partial, ignore_errors=True)
    module.save_pretrained(partial)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, WEIGHTS):
        (partial / name).replace(folder / name)
    partial.rmdir()
