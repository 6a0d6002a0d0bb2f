"""How the built-in model is made: `python deploy/builtin.py BARS` (`make builtin BARS=FOLDER`).

Trains both stages in the user's cache folder, from which a stopped run goes on, then rounds the
best of each to float16 into the package. Two processes of one thread each: one process of two
threads waits where other work takes a core.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import torch

from kronos_stream.model import Kronos, KronosTokenizer
from kronos_stream.model.catalog import BUILTIN_FOLDER
from kronos_stream.model.checkpoints import WEIGHTS, Checkpointed

CACHE: Final = Path.home() / ".cache" / "kronos-stream" / "builtin"
PROCESSES: Final = 2
COMMON: Final = ("--threads", "1", "--batch", "12", "--lr", "1.5e-3", "--lr-end", "0.02")
TOKENIZER: Final = (
    *("--layers", "3", "--d-model", "128", "--ff-dim", "256", "--heads", "4"),
    *("--s1-bits", "12", "--s2-bits", "12", "--channel-weights", "1,1,1,2,0.5,0.5"),
    *("--steps", "1800", "--validate-every", "250", "--save-every", "250"),
)
MODEL: Final = (
    *("--layers", "4", "--d-model", "160", "--ff-dim", "384", "--heads", "4"),
    *("--precision", "bf16", "--steps", "4400", "--validate-every", "400", "--save-every", "400"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python deploy/builtin.py", description=__doc__)
    parser.add_argument("bars", type=Path, help="folder of parquet or csv bars")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, default=BUILTIN_FOLDER)
    parser.add_argument("--steps", type=int, help="of each stage, to try it")
    a = parser.parse_args()
    fewer = ("--steps", str(a.steps), "--warmup", str(a.steps // 10)) if a.steps else ()
    a.cache.mkdir(parents=True, exist_ok=True)
    tokenizer, model = a.cache / "tokenizer", a.cache / "model"
    _train("tokenizer", a.bars, tokenizer, *TOKENIZER, *fewer)
    _train("model", a.bars, model, "--tokenizer", str(tokenizer / "best"), *MODEL, *fewer)
    _round(KronosTokenizer, tokenizer / "best", a.out / "tokenizer")
    _round(Kronos, model / "best", a.out / "model")
    return 0


def _train(stage: str, bars: Path, out: Path, *recipe: str) -> None:
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES))
    stage_of = ("-m", "kronos_stream", "train", stage, "--bars", str(bars), "--out", str(out))
    subprocess.run([sys.executable, *launch, *stage_of, *COMMON, *recipe], check=True)


def _round(cls: type[Checkpointed], best: Path, out: Path) -> None:
    """A checkpoint in float16."""
    cls.from_pretrained(best).save_pretrained(out, dtype=torch.float16)
    size = (out / WEIGHTS).stat().st_size
    print(json.dumps({"part": str(out), "mb": round(size / 1e6, 2)}))


if __name__ == "__main__":
    sys.exit(main())
