"""Metrics of a run: one JSON object a line, and TensorBoard where it is installed."""

import json
import math
from pathlib import Path
from typing import Any, Final

METRICS: Final = "metrics.jsonl"


class Metrics:
    """Appends to `metrics.jsonl` in a folder."""

    def __init__(self, folder: Path, step: int) -> None:
        """`step`: where the run goes on; what a killed run wrote after it will be written anew."""
        self._path = folder / METRICS
        kept = []
        if self._path.is_file():
            for line in self._path.read_text().splitlines():
                try:
                    before = json.loads(line)["step"] <= step
                except (ValueError, TypeError, KeyError):  # A kill can cut the last line.
                    continue
                if before:
                    kept.append(line)
        partial = self._path.with_suffix(".tmp")
        partial.write_text("".join(f"{line}\n" for line in kept))
        partial.replace(self._path)
        self._file = self._path.open("a")
        self._board = _board(folder / "tensorboard", step)

    def write(self, step: int, part: str, values: dict[str, float]) -> None:
        """`part`: train or validation. JSON has no nan and no infinity: they become null."""
        told = {k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in values.items()}
        entry = {"step": step, "part": part, **told}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{part}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
