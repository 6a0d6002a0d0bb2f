"""The uniforms: numpy's own Philox, uniform, and a function of their counter alone."""

import math

import numpy as np
import pytest
import torch

from kronos_stream.model.philox import uniforms


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 12, 24])
def test_they_are_those_of_numpys_generator(steps: int) -> None:
    seeds = [0, 7, 123_456_789_012, 2**63 - 1]
    ours = uniforms(seeds, 5, steps)
    for seed, of_seed in zip(seeds, ours, strict=True):
        for path in range(5):
            bits = np.random.Philox(key=seed, counter=[0, 0, path, 0])
            numpys = np.random.Generator(bits).random((steps, 2), dtype=np.float32)
            assert (of_seed[path] == numpys).all()


def test_uniforms_depend_on_seed_path_step_and_head_alone() -> None:
    many = uniforms([7], 6, 9)[0]
    assert many.shape == (6, 9, 2)
    assert many.dtype == np.float32
    assert ((many >= 0) & (many < 1)).all()
    assert (uniforms([7], 2, 9)[0] == many[:2]).all()
    assert (uniforms([7], 6, 4)[0] == many[:, :4]).all()
    assert len(np.unique(many)) == many.size
    assert not np.intersect1d(uniforms([8], 6, 9)[0], many).size


def test_uniforms_ignore_the_global_generators() -> None:
    np.random.seed(1)
    first = uniforms([7], 2, 3)[0]
    np.random.seed(2)
    torch.manual_seed(2)
    assert (uniforms([7], 2, 3)[0] == first).all()


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    u = uniforms([5], 200, 50)[0].astype(np.float64)
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    expected = u.size / 20
    # The 99.9 % point of chi-square with 19 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 43.8
    centred = u - 0.5
    for pair in (
        (centred[..., 0], centred[..., 1]),
        (centred[:, 1:], centred[:, :-1]),
        (centred[1:], centred[:-1]),
    ):
        size = pair[0].size
        correlation = float((pair[0] * pair[1]).mean()) * 12
        assert abs(correlation) < 3.3 / math.sqrt(size)


def test_the_widest_seed_is_taken() -> None:
    assert uniforms([2**63 - 1], 1, 1)[0].shape == (1, 1, 2)
