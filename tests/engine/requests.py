"""Requests, specs and small models for the engine's tests."""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from kronos_stream.bars.calendar import calendar_of
from kronos_stream.engine.messages import EngineReply, EngineRequest
from kronos_stream.model import Kronos, KronosTokenizer
from kronos_stream.model.features import scale_of
from kronos_stream.model.generate import generate
from kronos_stream.model.philox import uniforms
from kronos_stream.model.sampling import Sampling
from kronos_stream.wire.messages import ForecastSpec

INTERVAL_MS: Final = 300_000
START_MS: Final = 1_735_689_600_000


def spec(**changes: Any) -> ForecastSpec:
    """A small forecast's settings."""
    settings: dict[str, Any] = {
        "lookback": 24,
        "anchor_every": 1,
        "horizon": 5,
        "paths": 4,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "seed": 7,
        "join": "none",
        "tiny_prices": "skip",
        "fine_head_rotary": "upstream",
        "gaps": "fill",
        "calendar": "24/7",
        "dtype": "float32",
    }
    return ForecastSpec(**(settings | changes))


def tiny_pair(seed: int = 0, **changes: Any) -> tuple[Kronos, KronosTokenizer]:
    """A model and a tokenizer with seeded random weights, in eval mode."""
    torch.manual_seed(seed)
    dropout = {"ffn_dropout_p": 0.1, "attn_dropout_p": 0.1, "resid_dropout_p": 0.1}
    model = Kronos(
        **{
            "s1_bits": 6,
            "s2_bits": 6,
            "n_layers": 2,
            "d_model": 32,
            "n_heads": 4,
            "ff_dim": 48,
            "token_dropout_p": 0.1,
            "learn_te": True,
            "max_context": 128,
        }
        | dropout
        | changes
    )
    tokenizer = KronosTokenizer(
        d_in=6,
        d_model=24,
        n_heads=2,
        ff_dim=32,
        n_enc_layers=3,
        n_dec_layers=3,
        s1_bits=6,
        s2_bits=6,
        beta=0.05,
        gamma0=1.0,
        gamma=1.1,
        zeta=0.05,
        group_size=4,
        **dropout,
    )
    return model.eval(), tokenizer.eval()


def request(
    symbol: str,
    values: NDArray[np.float64],
    row: int,
    settings: ForecastSpec,
    *,
    seed: int = 3,
    revision: int = 0,
) -> EngineRequest:
    """The request at the bar `row` of a series (n, 6) of 5-minute bars; `revision` is that of
    the last bar but one."""
    n = settings.lookback + settings.anchor_every
    first = row - n + 1
    assert first >= 0
    times = START_MS + INTERVAL_MS * np.arange(first, row + 1 + settings.horizon)
    revisions = np.zeros(n, np.int64)
    revisions[-2] = revision
    return EngineRequest(
        forecast_id=f"{symbol}@{row}",
        symbol=symbol,
        interval_ms=INTERVAL_MS,
        seed=seed,
        open_times=times[:n].astype("<i8").tobytes(),
        revisions=revisions.astype("<i8").tobytes(),
        values=values[first : row + 1].astype("<f8").tobytes(),
        stamps=calendar_of("24/7", INTERVAL_MS).stamps(times).astype("<i8").tobytes(),
        next_open_time=int(times[n]),
    )


def paths_of(reply: EngineReply, settings: ForecastSpec) -> NDArray[np.float64]:
    """The reply's paths (paths, horizon, 6)."""
    assert reply.refused is None, reply.refused
    return np.frombuffer(reply.paths, "<f8").reshape(settings.paths, settings.horizon, 6)


def recomputed(
    pair: tuple[Kronos, KronosTokenizer],
    asked: EngineRequest,
    settings: ForecastSpec,
    start: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Paths and scale of the context that begins at the request's row `start`, from scratch: the
    whole window anew at every step, no cache."""
    values = np.frombuffer(asked.values, "<f8").reshape(-1, 6)[start:]
    stamps = np.frombuffer(asked.stamps, "<i8").reshape(-1, 5)[start:]
    scale = scale_of(values[: settings.lookback])
    pair[0].fine_head_rotary = settings.fine_head_rotary
    z = generate(
        *pair,
        torch.from_numpy(scale.normalise(values))[None],
        torch.from_numpy(stamps.copy())[None],
        torch.from_numpy(uniforms([asked.seed], settings.paths, settings.horizon)),
        sampling=Sampling(
            temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p
        ),
        max_context=10_000,
    )
    return scale.restore(z[0].numpy()), scale.std
