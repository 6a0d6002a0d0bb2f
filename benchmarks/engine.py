"""One warm close at the official small shape beside the peer's forecast of the same bars."""

import time
from statistics import median

import numpy as np
import pandas as pd
import torch

from kronos_stream.engine.core import Engine
from kronos_stream.model import Kronos, KronosTokenizer
from tests.engine.requests import START_MS, paths_of, recomputed, request, spec
from tests.model.peer import SMALL, PeerPredictor, bars, peer_pair

from .table import Row

CLOSES = 20
SETTINGS = spec(lookback=399, horizon=24, paths=10)
SYMBOLS = ("AAA", "BBB")


def warm_small() -> list[Row]:
    """2 symbols × 10 paths × 24 steps, context 400, float32, random weights."""
    torch.manual_seed(0)
    pair = Kronos(**SMALL.model).eval(), KronosTokenizer(**SMALL.tokenizer).eval()
    engine = Engine(*pair, SETTINGS)
    series = {s: bars(600, i) for i, s in enumerate(SYMBOLS)}
    warm: list[float] = []
    cold = 0.0
    for close in range(CLOSES + 1):
        asked = [request(s, series[s], 450 + close, SETTINGS) for s in SYMBOLS]
        began = time.perf_counter()
        replies = engine.forecast(asked, lambda: 0)
        elapsed = time.perf_counter() - began
        if close == 0:
            cold = elapsed
            theirs, std = recomputed(pair, asked[0], SETTINGS, replies[0].context_start)
            assert (np.abs(paths_of(replies[0], SETTINGS) - theirs) <= 1e-3 * (std + 1e-5)).all()
        else:
            assert {r.cache for r in replies} == {"hit"}
            warm.append(elapsed)
        while engine.step_idle():
            pass
    peer = _peer(series)
    return [
        Row("warm-small", median(warm), "s", peer=peer, ratio=peer / median(warm)),
        Row("cold-small", cold, "s", peer=peer, ratio=peer / cold),
        Row("cache of one symbol, small", engine.cache.slot_bytes / 2**20, "MiB"),
    ]


def _peer(series: dict[str, np.ndarray]) -> float:
    predictor = PeerPredictor(*peer_pair(SMALL), device="cpu", max_context=512)
    columns = ["open", "high", "low", "close", "volume", "amount"]
    frames = [pd.DataFrame(series[s][51:451], columns=columns) for s in SYMBOLS]
    when = pd.Series(pd.to_datetime(START_MS + 300_000 * np.arange(424), unit="ms"))
    began = time.perf_counter()
    predictor.predict_batch(
        frames,
        [when[:400]] * 2,
        [when[400:]] * 2,
        24,
        T=1.0,
        top_k=0,
        top_p=1.0,
        sample_count=10,
        verbose=False,
    )
    return time.perf_counter() - began
