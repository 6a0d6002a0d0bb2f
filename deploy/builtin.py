"""How the built-in model is made: `python deploy/builtin.py BARS` (`make builtin BARS=FOLDER`).

Trains both stages in the user's cache folder, from which a stopped run goes on, then rounds the
best of each to float16 into the package. `--recipe gpu` is the one for a GPU: a larger model and
more bars.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import torch

from kronos_stream.model import Kronos, KronosTokenizer
from kronos_stream.model.catalog import BUILTIN_FOLDER
from kronos_stream.model.checkpoints import WEIGHTS, Checkpointed
from kronos_stream.training.folder import DATA
from kronos_stream.training.segments import bars_files

CACHE: Final = Path.home() / ".cache" / "kronos-stream" / "builtin"
PACK_BYTES: Final = 30_000_000
TOKENIZER: Final = (
    *("--layers", "3", "--d-model", "128", "--ff-dim", "256", "--heads", "4"),
    *("--s1-bits", "12", "--s2-bits", "12", "--channel-weights", "1,1,1,2,0.5,0.5"),
)
"""Of both recipes."""


class Recipe(NamedTuple):
    """Flags of `kronos-stream train`, and how many processes share a step."""

    processes: int
    common: tuple[str, ...]
    tokenizer: tuple[str, ...]
    model: tuple[str, ...]


CPU: Final = Recipe(
    # One process of two threads waits where other work takes a core.
    processes=2,
    common=("--threads", "1", "--batch", "12", "--lr", "1.5e-3", "--lr-end", "0.02"),
    tokenizer=(
        *TOKENIZER,
        *("--steps", "1800", "--validate-every", "250", "--save-every", "250"),
    ),
    model=(
        *("--layers", "4", "--d-model", "160", "--ff-dim", "384", "--heads", "4"),
        *("--precision", "bf16", "--steps", "6000"),
        *("--validate-every", "500", "--save-every", "500"),
    ),
)
GPU: Final = Recipe(
    processes=1,
    common=("--device", "cuda", "--batch", "96", "--lr-end", "0.02"),
    tokenizer=(
        *TOKENIZER,
        *("--lr", "1.5e-3", "--steps", "2000", "--validate-every", "500", "--save-every", "500"),
    ),
    model=(
        *("--size", "mini", "--precision", "bf16", "--lr", "1e-3", "--steps", "5000"),
        *("--validate-every", "500", "--save-every", "500"),
    ),
)
RECIPES: Final = {"cpu": CPU, "gpu": GPU}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python deploy/builtin.py", description=__doc__)
    parser.add_argument("bars", type=Path, help="folder of parquet or csv bars")
    parser.add_argument("--recipe", choices=list(RECIPES), default="cpu")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, default=BUILTIN_FOLDER)
    parser.add_argument("--steps", type=int, help="of each stage, to try it")
    parser.add_argument("--device", help="instead of the recipe's, to try it")
    parser.add_argument(
        "--pack",
        type=Path,
        metavar="FOLDER",
        help="only copy bars there, of as many symbols as 30 MB hold, for a machine with a GPU",
    )
    a = parser.parse_args()
    if a.pack:
        return _pack(bars_files([a.bars]), a.pack)
    recipe = RECIPES[a.recipe]
    changes: tuple[str, ...] = ("--device", a.device) if a.device else ()
    if a.steps:
        changes += ("--steps", str(a.steps), "--warmup", str(a.steps // 10))
    a.cache.mkdir(parents=True, exist_ok=True)
    tokenizer, model = a.cache / "tokenizer", a.cache / "model"
    _train(recipe, "tokenizer", a.bars, tokenizer, *recipe.tokenizer, *changes)
    # The model learns the ids of the tokenizer as it is shipped.
    rounded = a.cache / "tokenizer-rounded"
    _round(KronosTokenizer.from_pretrained(tokenizer / "best"), rounded)
    _train(recipe, "model", a.bars, model, "--tokenizer", str(rounded), *recipe.model, *changes)
    _round(Kronos.from_pretrained(model / "best"), a.out / "model")
    shutil.copytree(rounded, a.out / "tokenizer", dirs_exist_ok=True)
    # For those who evaluate it: up to when it was trained.
    until = json.loads((model / DATA).read_text())["train_until"]
    (a.out / DATA).write_text(json.dumps({"train_until": until}) + "\n")
    return 0


def _train(recipe: Recipe, stage: str, bars: Path, out: Path, *flags: str) -> None:
    processes = str(recipe.processes)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes)
    stage_of = ("-m", "kronos_stream", "train", stage, "--bars", str(bars), "--out", str(out))
    subprocess.run([sys.executable, *launch, *stage_of, *recipe.common, *flags], check=True)


def _round(part: Checkpointed, out: Path) -> None:
    """Saves it in float16."""
    part.save_pretrained(out, dtype=torch.float16)
    size = (out / WEIGHTS).stat().st_size
    print(json.dumps({"part": str(out), "mb": round(size / 1e6, 2)}))


def _pack(files: list[Path], out: Path) -> int:
    """Files evenly through their names, as many as PACK_BYTES hold; 1 where that is none."""
    for count in range(len(files), -1, -1):
        chosen = [files[len(files) * k // count] for k in range(count)]
        size = sum(path.stat().st_size for path in chosen)
        if size <= PACK_BYTES:
            break
    out.mkdir(parents=True, exist_ok=True)
    for path in chosen:
        shutil.copy2(path, out)
    print(json.dumps({"files": count, "mb": round(size / 1e6, 2)}))
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main())
