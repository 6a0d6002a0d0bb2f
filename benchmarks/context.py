"""What a warm close costs at a short and at a long context: the same, but for attention itself."""

import time
from collections.abc import Callable
from statistics import median

import torch

from kronos_stream.engine.attention import Branches
from kronos_stream.engine.kv import KV, Lane
from kronos_stream.model.kronos import FINE_HEADS
from tests.model.peer import SMALL

from .engine import STEPS, bench
from .table import Row

SHORT, LONG = 63, 479
CLOSES = 12
SYMBOLS, PATHS = 2, 10
CPU = torch.device("cpu")


def context_small() -> list[Row]:
    """2 symbols × 10 paths × 24 steps at context 64 and 480, and one symbol's memory."""
    short, short_rest, _ = _measured(SHORT)
    long, long_rest, slot_mib = _measured(LONG)
    return [
        Row("context-small: 480 beside 64", long, "s", short, short / long, note="whole closes"),
        Row(
            "context-small: 480 beside 64, without the rollout's attention",
            long_rest,
            "s",
            short_rest,
            short_rest / long_rest,
            note="at least 0.9",
        ),
        Row("context-small: cache of one symbol at 480", slot_mib, "MiB", note="all of its memory"),
    ]


def _measured(lookback: int) -> tuple[float, float, float]:
    """Median seconds of a close, the same without its attention, MiB of a symbol's slot."""
    with bench(SMALL, symbols=SYMBOLS, paths=PATHS, lookback=lookback) as b:
        attend = _attention(lookback + 1)
        b.close(b.requests())
        b.idle()
        whole: list[float] = []
        alone: list[float] = []
        for _ in range(CLOSES):
            replies, elapsed = b.close(b.requests())
            assert {r.cache for r in replies} == {"hit"}
            whole.append(elapsed)
            # In turns with the closes: the machine may change its speed.
            began = time.perf_counter()
            attend()
            alone.append(time.perf_counter() - began)
            b.idle()
        slot_mib = b.hello.hello.cache_bytes / 2**20
    return median(whole), median(whole) - median(alone), slot_mib


@torch.inference_mode()
def _attention(length: int) -> Callable[[], None]:
    """The attention of a rollout at a context of `length` and nothing else, by the engine's own
    kernels over memory of the same shape."""
    lanes = [Lane(slot, length) for slot in range(SYMBOLS)]
    rows = SYMBOLS * PATHS
    decoder_layers = SMALL.tokenizer_layers - 1
    decoder_heads = SMALL.tokenizer["n_heads"]

    def memories(layers: int, heads: int, width: int, run: int) -> list[Branches]:
        kv = KV(layers, SYMBOLS, heads, length + 1, width // heads, torch.float32, CPU)
        own = torch.randn(layers, 2, rows, heads, STEPS, width // heads)
        for part in (kv.keys, kv.values):
            part.normal_()
        return [Branches(kv, i, lanes, (own[i, 0], own[i, 1]), run) for i in range(layers)]

    model = memories(SMALL.layers, SMALL.heads, SMALL.width, 1)
    (fine,) = memories(1, FINE_HEADS, SMALL.width, 1)
    decoder = memories(decoder_layers, decoder_heads, SMALL.tokenizer_width, STEPS)
    q = torch.randn(rows, SMALL.heads, SMALL.width // SMALL.heads)
    of_fine = q.view(rows, FINE_HEADS, -1)
    of_decoder = torch.randn(rows * STEPS, decoder_heads, SMALL.tokenizer_width // decoder_heads)

    @torch.inference_mode()
    def attend() -> None:
        for step in range(STEPS):
            fine.attend(of_fine, step)
            for memory in model if step < STEPS - 1 else ():
                memory.attend(q, step + 1)
        for memory in decoder:
            memory.attend(of_decoder, 1)

    return attend
