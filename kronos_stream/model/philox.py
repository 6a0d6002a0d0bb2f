"""Uniform random numbers from a counter: each is a function of seed, path, step and head alone.

Philox4x64-10 (Salmon et al. 2011), for all counters at once. The numbers are those of numpy's
generator of that name (key = seed, counter = (0, 0, path, 0)), which takes one counter at a time.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

ROUNDS: Final = 10
MULTIPLIERS: Final = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
KEY_STEPS: Final = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B))
HALF: Final = np.uint64(32)
LOW_HALF: Final = np.uint64(0xFFFFFFFF)
FLOATS_A_BLOCK: Final = 8
"""A counter gives four words of 64 bits, each of them two floats."""


def uniforms(seeds: Sequence[int], paths: int, steps: int) -> NDArray[np.float32]:
    """u[seed, path, step, head] in [0, 1), float32 (len(seeds), paths, steps, 2). A path's numbers
    depend on neither the number of paths nor of steps. Seeds are below 2^63."""
    wanted = 2 * steps
    shape = (len(seeds), paths, -(-wanted // FLOATS_A_BLOCK))
    # numpy counts up before it draws: its first block is that of counter 1.
    block = np.broadcast_to(np.arange(1, shape[2] + 1, dtype=np.uint64), shape)
    path = np.broadcast_to(np.arange(paths, dtype=np.uint64)[:, None], shape)
    nothing = np.zeros(shape, np.uint64)
    key = np.asarray(seeds, np.uint64)[:, None, None]
    words = np.stack(_philox((block, nothing, path, nothing), key), axis=-1)
    halves = words.astype("<u8").reshape(*shape[:2], -1).view("<u4")[..., :wanted]
    mantissas = (halves >> np.uint32(8)).astype(np.float32)
    return (mantissas * np.float32(2.0**-24)).reshape(*shape[:2], steps, 2)


def _philox(counter: tuple[Words, Words, Words, Words], key: Words) -> list[Words]:
    a, b, c, d = counter
    keys = [key, np.zeros_like(key)]
    # Wrapping around is what these sums and products are for.
    with np.errstate(over="ignore"):
        for round_ in range(ROUNDS):
            if round_:
                keys = [k + step for k, step in zip(keys, KEY_STEPS, strict=True)]
            high_a, low_a = _product(a, MULTIPLIERS[0])
            high_c, low_c = _product(c, MULTIPLIERS[1])
            a, b, c, d = high_c ^ b ^ keys[0], low_c, high_a ^ d ^ keys[1], low_a
    return [a, b, c, d]


def _product(x: Words, factor: np.uint64) -> tuple[Words, Words]:
    """High and low words of x · factor."""
    x_low, x_high = x & LOW_HALF, x >> HALF
    low, high = factor & LOW_HALF, factor >> HALF
    across, back = x_low * high, x_high * low
    carry = ((x_low * low >> HALF) + (across & LOW_HALF) + (back & LOW_HALF)) >> HALF
    return x_high * high + (across >> HALF) + (back >> HALF) + carry, x * factor
