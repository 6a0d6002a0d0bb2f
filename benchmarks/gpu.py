"""`python -m benchmarks.gpu`: the engine on one GPU, bfloat16, through the worker's entry point.

1,000 symbols × 10 paths × 12 steps with small's shape, and one symbol alone; the logits beside
float32 on the CPU; upstream at the largest batch that fits.
"""

import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch

from kronos_stream.engine.messages import Forecasts
from tests.engine.requests import START_MS
from tests.model.peer import SMALL, PeerPredictor, bars, peer_pair

from .engine import LOOKBACK, Bench, bench, divergence
from .limit import Operations, product_rate
from .table import Row, show

SYMBOLS = 1_000
PATHS, STEPS = 10, 12
CLOSES = 10
CACHE_MIB = 24_000
PEER_BATCHES = (512, 256, 128, 64, 32, 16, 8, 4, 2)


def main() -> int:
    """Prints the table and writes build/bench-gpu.json; 2 where there is no GPU."""
    if not torch.cuda.is_available():
        print("no GPU that torch can use: nothing to measure", file=sys.stderr)
        return 2
    rows = [*_burst(), _single(), _peer()]
    show(rows, Path("build/bench-gpu.json"), device=torch.cuda.get_device_name())
    return 0


def _worker(symbols: int) -> "Bench":
    with bench(
        SMALL,
        symbols=symbols,
        paths=PATHS,
        steps=STEPS,
        dtype="bfloat16",
        device="cuda",
        cache_mib=CACHE_MIB,
    ) as b:
        return b


def _taken(b: Bench) -> list[float]:
    """Seconds of warm closes; the first two prefill and capture."""
    b.worker.answer(Forecasts(requests=b.requests(), prepare=True))
    b.idle()
    b.close(b.requests())
    b.idle()
    taken: list[float] = []
    for _ in range(CLOSES):
        replies, elapsed = b.close(b.requests())
        assert {r.cache for r in replies} == {"hit"}
        taken.append(elapsed)
        b.idle()
    return taken


def _burst() -> list[Row]:
    b = _worker(SYMBOLS)
    kl = divergence(b, "cuda")
    ours = median(_taken(b))
    operations = SYMBOLS * Operations(SMALL).close(LOOKBACK + 1, PATHS, STEPS)
    limit = operations / product_rate(torch.bfloat16, "cuda")
    return [
        Row(
            f"gpu: {SYMBOLS} symbols",
            1_000 * ours,
            "ms",
            limit_share=limit / ours,
            note="H100 < 100, H200 < 70; products alone, without reading the caches",
        ),
        Row("gpu: mean KL of coarse logits from float32 on the CPU", kl, "nats"),
        Row("gpu: peak memory", torch.cuda.max_memory_allocated() / 2**20, "MiB"),
    ]


def _single() -> Row:
    return Row("gpu: one symbol", 1_000 * median(_taken(_worker(1))), "ms", note="< 8")


def _peer() -> Row:
    """Upstream on the same GPU: milliseconds for all symbols, from its largest batch that fits."""
    predictor = PeerPredictor(*peer_pair(SMALL), device="cuda:0", max_context=512)
    columns = ["open", "high", "low", "close", "volume", "amount"]
    when = pd.Series(
        pd.to_datetime(START_MS + 300_000 * np.arange(LOOKBACK + 1 + STEPS), unit="ms")
    )
    frame = pd.DataFrame(bars(LOOKBACK + 1, 0), columns=columns)
    for size in PEER_BATCHES:
        try:
            began = time.perf_counter()
            predictor.predict_batch(
                [frame] * size,
                [when[: LOOKBACK + 1]] * size,
                [when[LOOKBACK + 1 :]] * size,
                STEPS,
                T=1.0,
                top_k=0,
                top_p=1.0,
                sample_count=PATHS,
                verbose=False,
            )
            taken = (time.perf_counter() - began) * SYMBOLS / size
            return Row("gpu: upstream, 1000 symbols", 1_000 * taken, "ms", note=f"batch {size}")
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    raise RuntimeError("upstream does not fit at any batch")


if __name__ == "__main__":
    sys.exit(main())
