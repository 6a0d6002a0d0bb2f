"""How far a forecast distribution is from what happened: the continuous ranked probability score
and the quantile loss, both in the unit of the observation and the smaller the better."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]


def crps_of_paths(paths: Array, y: Array) -> Array:
    """Sampled paths (N, ...) and observations (...) → (...): the fair estimator
    E|X − y| − 1/(2N(N − 1)) ΣΣ|Xi − Xj| (Ferro 2014), whose expectation is that of the
    distribution the paths were drawn from, however few they are. One path gives |X − y|.
    """
    n = len(paths)
    error = np.abs(paths - y).mean(0)
    if n == 1:
        return np.asarray(error)
    # Σ_{i<j} (x_j − x_i) of sorted values is Σ_i (2i − n − 1) x_i, i from 1.
    weights = 2.0 * np.arange(1, n + 1) - n - 1
    pairs = np.tensordot(weights, np.sort(paths, axis=0), axes=1)
    return np.asarray(error - pairs / (n * (n - 1)))


def crps_of_normal(sigma: Array, y: Array) -> Array:
    """Of N(0, σ²): σ (z (2Φ(z) − 1) + 2φ(z) − 1/√π), z = y/σ (Gneiting and Raftery 2007); |y|
    where σ is 0."""
    z = y / np.where(sigma > 0, sigma, 1.0)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    score = sigma * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    return np.where(sigma > 0, score, np.abs(y))


def quantile_loss(quantiles: Array, levels: Array, y: Array) -> Array:
    """Pinball loss of quantiles (..., L) at observations (...), mean over the levels: (...)."""
    error = y[..., None] - quantiles
    return np.asarray(np.maximum(levels * error, (levels - 1) * error).mean(-1))
