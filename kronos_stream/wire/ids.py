"""Ids, seeds and digests: blake2b of a canonical identity, never Python's salted hash()."""

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from .messages import ForecastSpec


def digest(*parts: object, size: int = 16) -> str:
    """Hex blake2b of the canonical JSON (sorted keys) of `parts`; `size` in bytes."""
    canonical = msgspec.json.encode(parts, order="deterministic")
    return hashlib.blake2b(canonical, digest_size=size).hexdigest()


def stable_int(*parts: object) -> int:
    """A 63-bit integer from the same canonical identity (seeds, epoch phases)."""
    return int(digest(*parts, size=8), 16) >> 1


def spec_digest(spec: ForecastSpec) -> str:
    """Digest of the settings that change a forecast's content."""
    return digest("spec", spec, size=8)


def forecast_id(
    symbol: str, interval: str, open_time: int, model_revision: str, spec: ForecastSpec
) -> str:
    """The identity of a forecast: symbol, interval, open time, model revision, settings."""
    return digest("forecast", symbol, interval, open_time, model_revision, spec_digest(spec))


def forecast_seed(
    symbol: str, interval: str, open_time: int, model_revision: str, spec: ForecastSpec
) -> int:
    """The seed of one forecast's random numbers, from its id (which holds the base seed)."""
    return stable_int("seed", forecast_id(symbol, interval, open_time, model_revision, spec))


def context_digest(
    open_times: NDArray[np.int64], revisions: NDArray[np.int64], values: NDArray[np.float64]
) -> str:
    """Digest over the records of a context: open times (n,), revisions (n,), values (n, 6)."""
    h = hashlib.blake2b(digest_size=16)
    h.update(np.ascontiguousarray(open_times, dtype="<i8").tobytes())
    h.update(np.ascontiguousarray(revisions, dtype="<i8").tobytes())
    h.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    return h.hexdigest()
