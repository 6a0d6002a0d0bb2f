"""`kronos-stream train` on a folder's bars/, small enough for seconds."""

from pathlib import Path

from kronos_stream.cli import main
from tests.training.markets import WINDOW

SMALL = [
    *("--window", str(WINDOW), "--horizon", "4", "--steps", "4", "--batch", "4"),
    *("--validation-windows", "4", "--log-every", "2"),
]
SHAPE = ["--layers", "1", "--d-model", "16", "--heads", "2", "--ff-dim", "24"]
BITS = ["--s1-bits", "4", "--s2-bits", "3"]


def encoder(folder: Path) -> list[str]:
    return ["--tokenizer", str(folder / "tokenizer" / "best")]


def run(folder: Path, stage: str, out: str, *more: str) -> int:
    paths = ["--bars", str(folder / "bars"), "--out", str(folder / out)]
    return main(["train", stage, *paths, *SMALL, *more])
