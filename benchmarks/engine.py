"""The engine's cases: closes and idle work at the official shapes, with random weights, through the
worker's own entry point, each compared before it may print: paths in float32 with the plain
reference's, logits in bfloat16 with float32's."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import torch

from kronos_stream.engine.core import Engine
from kronos_stream.engine.linear import multiplies
from kronos_stream.engine.messages import (
    Configure,
    EngineConfig,
    EngineReply,
    EngineRequest,
    Forecasts,
    Hello,
    Load,
    Replies,
)
from kronos_stream.engine.worker import Worker
from kronos_stream.model import Kronos, KronosTokenizer
from kronos_stream.wire.messages import ForecastSpec
from tests.engine.requests import START_MS, paths_of, recomputed, request, spec
from tests.model.peer import MINI, SMALL, PeerPredictor, Shape, bars, peer_pair

from .limit import Operations, product_rate
from .table import Row

LOOKBACK = 399
STEPS = 24
CLOSES = 20
CHECKED_PATHS = 2
"""Paths that are compared: the reference runs the whole window anew at each step of each."""
COMPARED = 32
"""Symbols whose logits in bfloat16 are compared with float32's, whose paths are no reference."""
MAX_KL = 1e-3


def saved_pair(shape: Shape, folder: Path) -> tuple[Kronos, KronosTokenizer]:
    """Fresh seeded weights, also in `folder` as --model takes them."""
    torch.manual_seed(0)
    pair = Kronos(**shape.model).eval(), KronosTokenizer(**shape.tokenizer).eval()
    pair[0].save_pretrained(folder / "model")
    pair[1].save_pretrained(folder / "tokenizer")
    return pair


@dataclass
class Bench:
    """A worker of one shape and settings, and the series of its symbols."""

    worker: Worker
    pair: tuple[Kronos, KronosTokenizer]
    shape: Shape
    spec: ForecastSpec
    hello: Hello
    series: dict[str, Any]
    row: int
    rate: float
    """Operations a second of the best large product so far."""

    def requests(self) -> list[EngineRequest]:
        """A close of every symbol, at the next bar."""
        self.row += 1
        return [request(s, v, self.row, self.spec) for s, v in self.series.items()]

    def close(self, requests: list[EngineRequest]) -> tuple[list[EngineReply], float]:
        """Replies, and seconds from the order to them."""
        began = time.perf_counter()
        answer = self.worker.answer(Forecasts(requests=requests))
        elapsed = time.perf_counter() - began
        assert isinstance(answer, Replies)
        return answer.replies, elapsed

    def idle(self) -> list[float]:
        """Seconds of each unit of idle work, until there is none."""
        units: list[float] = []
        while True:
            began = time.perf_counter()
            if not self.worker.step_idle():
                return units
            units.append(time.perf_counter() - began)

    def check(self, asked: EngineRequest, reply: EngineReply) -> None:
        """RuntimeError where the first paths of a reply are not the plain reference's."""
        few = msgspec.structs.replace(self.spec, paths=min(CHECKED_PATHS, self.spec.paths))
        theirs, std = recomputed(self.pair, asked, few, reply.context_start)
        off = np.abs(paths_of(reply, self.spec)[: few.paths] - theirs) / (std + 1e-5)
        if not off.max() <= 1e-3:
            raise RuntimeError(f"a path is off the plain reference's by {off.max():.2g} σ")

    def limit_s(self, operations: float) -> float:
        """Seconds of so many operations at the speed of a large product, the best of those at the
        beginning and of some now: a shared machine has bad minutes."""
        self.rate = max(self.rate, product_rate(getattr(torch, self.spec.dtype)))
        return operations / self.rate

    def close_operations(self) -> int:
        """Operations of one close of every symbol."""
        each = Operations(self.shape).close(
            self.spec.lookback + 1, self.spec.paths, self.spec.horizon
        )
        return each * len(self.series)


@contextmanager
def bench(
    shape: Shape,
    *,
    symbols: int,
    paths: int,
    steps: int = STEPS,
    lookback: int = LOOKBACK,
    dtype: Any = "float32",
    device: str = "cpu",
    cache_mib: int = 2_048,
) -> Iterator[Bench]:
    """A worker as `kronos-stream` configures it."""
    wanted = spec(lookback=lookback, horizon=steps, paths=paths, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        pair = saved_pair(shape, Path(folder))
        worker = Worker()
        config = EngineConfig(
            model=folder,
            tokenizer=None,
            revision=None,
            device=device,
            dtype=dtype,
            threads=0,
            native=True,
            max_context=None,
            cache_bytes=cache_mib * 2**20,
        )
        worker.answer(Load(config=config))
        hello = worker.answer(Configure(spec=wanted))
    assert isinstance(hello, Hello)
    series = {f"SYM{i:03d}": bars(lookback + CLOSES + 30, i) for i in range(symbols)}
    rate = product_rate(getattr(torch, dtype), device)
    yield Bench(worker, pair, shape, wanted, hello, series, lookback + 1, rate)


def warm_small() -> list[Row]:
    """2 symbols × 10 paths × 24 steps, context 400, beside upstream on the same bars."""
    return _closes()[:1]


def cold_small() -> list[Row]:
    """The same from nothing: both prefixes are made at the close."""
    return _closes()[1:]


def _closes() -> list[Row]:
    with bench(SMALL, symbols=2, paths=10) as b:
        replies, cold = b.close(b.requests())
        assert {r.cache for r in replies} == {"miss"}
        b.idle()
        warm: list[float] = []
        for _ in range(CLOSES):
            asked = b.requests()
            replies, elapsed = b.close(asked)
            assert {r.cache for r in replies} == {"hit"}
            warm.append(elapsed)
            b.idle()
        for one, reply in zip(asked, replies, strict=True):
            b.check(one, reply)
        limit = b.limit_s(b.close_operations())
        more = 2 * Operations(SMALL).prefill(LOOKBACK)
        whole = limit * (1 + more / b.close_operations())
        peer = _peer(list(b.series.values()))
        ours, said = median(warm), _said(b, limit)
        note = f"limit {whole:.3f} s at the same"
        return [
            Row("warm-small", ours, "s", peer, peer / ours, limit / ours, said),
            Row("cold-small", cold, "s", peer, peer / cold, whole / cold, note),
        ]


def _said(b: Bench, limit: float) -> str:
    """The limit of a close."""
    gflops = b.close_operations() / limit / 1e9
    return f"limit {limit:.3f} s at {gflops:.0f} GFLOP/s {b.spec.dtype}"


def _peer(series: list[Any]) -> float:
    """Seconds of upstream's forecast of the same symbols, paths, steps and sampling settings."""
    predictor = PeerPredictor(*peer_pair(SMALL), device="cpu", max_context=512)
    columns = ["open", "high", "low", "close", "volume", "amount"]
    context = LOOKBACK + 1
    frames = [pd.DataFrame(values[:context], columns=columns) for values in series]
    when = pd.Series(pd.to_datetime(START_MS + 300_000 * np.arange(context + STEPS), unit="ms"))
    began = time.perf_counter()
    predictor.predict_batch(
        frames,
        [when[:context]] * len(frames),
        [when[context:]] * len(frames),
        STEPS,
        T=1.0,
        top_k=0,
        top_p=1.0,
        sample_count=10,
        verbose=False,
    )
    return time.perf_counter() - began


def burst_small() -> list[Row]:
    """32 symbols × 30 paths × 24 steps."""
    return [_burst_alone("burst-small", SMALL)]


def burst_mini() -> list[Row]:
    """The same with mini."""
    return [_burst_alone("burst-mini", MINI)]


def burst_small_bf16() -> list[Row]:
    """In bfloat16, beside float32 in turns, where the processor has it."""
    if not multiplies(torch.bfloat16, torch.device("cpu")):
        return [Row("burst-small-bf16", None, "s", note="this processor has no bfloat16")]
    with _burst(SMALL) as plain, _burst(SMALL, dtype="bfloat16") as half:
        taken = [(_warm_close(plain), _warm_close(half)) for _ in range(5)]
        peer, ours = (median(times) for times in zip(*taken, strict=True))
        _check_burst(plain)
        limit = half.limit_s(half.close_operations())
        kl = divergence(half)
        note = f"peer: float32, in turns; KL {kl:.0e} from it; {_said(half, limit)}"
        return [Row("burst-small-bf16", ours, "s", peer, peer / ours, limit / ours, note)]


def _burst_alone(case: str, shape: Shape) -> Row:
    with _burst(shape) as b:
        ours = median(_warm_close(b) for _ in range(3))
        _check_burst(b)
        limit = b.limit_s(b.close_operations())
        return Row(case, ours, "s", limit_share=limit / ours, note=_said(b, limit))


@contextmanager
def _burst(shape: Shape, dtype: str = "float32") -> Iterator[Bench]:
    """Prepared for the next close."""
    with bench(shape, symbols=32, paths=30, dtype=dtype) as b:
        b.worker.answer(Forecasts(requests=b.requests(), prepare=True))
        b.idle()
        yield b


def _check_burst(b: Bench) -> None:
    asked = b.requests()
    replies, _ = b.close(asked)
    b.check(asked[0], replies[0])


def divergence(b: Bench, device: str = "cpu") -> float:
    """Mean KL(float32 on the CPU ‖ theirs) of the next bar's coarse logits over COMPARED symbols;
    RuntimeError above MAX_KL."""
    asked = b.requests()[:COMPARED]
    plain = msgspec.structs.replace(b.spec, dtype="float32")
    engines = (
        Engine(*b.pair, plain),
        Engine(*b.pair, b.spec, device=device, cache_bytes=2**30),
    )
    exact, ours = (e.coarse_logits(asked).cpu().log_softmax(-1) for e in engines)
    found = float((exact.exp() * (exact - ours)).sum(-1).mean())
    if not found <= MAX_KL:
        raise RuntimeError(f"logits are off float32's by a mean KL of {found:.2g}")
    return found


def _warm_close(b: Bench) -> float:
    """Seconds of a close of prepared symbols, which are prepared for the next one afterwards."""
    replies, elapsed = b.close(b.requests())
    assert {r.cache for r in replies} == {"hit"}
    b.idle()
    return elapsed


def idle_small() -> list[Row]:
    """Normalise, tokenise and prefill the next prefixes; a close waits for one unit at most."""
    with bench(SMALL, symbols=8, paths=10, steps=2) as b:
        units: list[float] = []
        taken: list[float] = []
        for _ in range(4):
            asked = b.requests()
            began = time.perf_counter()
            b.worker.answer(Forecasts(requests=asked, prepare=True))
            units += b.idle()
            taken.append((time.perf_counter() - began) / len(asked))
        asked = b.requests()
        replies, _ = b.close(asked)
        assert {r.cache for r in replies} == {"hit"}
        b.check(asked[0], replies[0])
        limit = b.limit_s(Operations(SMALL).prefill(LOOKBACK))
        ours = median(taken)
        wait_ms = 1_000 * float(np.percentile(units, 99))
        return [
            Row(
                "idle-small",
                ours,
                "s a symbol",
                limit_share=limit / ours,
                note=f"limit {limit:.3f} s",
            ),
            Row("idle-small: wait of a close, p99", wait_ms, "ms", note="one unit, at most 20"),
        ]
