"""Integers at positions: what a device draws does not depend on how arrays are cut."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from keras_dp import noise
from keras_dp.backend.jax.noise import discrete, drawing
from keras_dp.types import Part

SHAPES = [(), (5,), (3, 8), (6, 10), (4, 3, 6), (2, 6, 1), (1, 12), (0, 4)]
CUTS = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 3, 1), (3, 2, 2)]


def drawn(parts, sizes):
    """Draw these parts of arrays of the shapes above."""
    bases, _ = drawing.positions(SHAPES)
    key = noise.noise_key(5, 0, "discrete_gaussian")
    multipliers = jnp.arange(150_000, 150_000 + len(parts), dtype=jnp.int32)
    wanted = [
        drawing.stretches_of(part, size, base)
        for part, size, base in zip(parts, sizes, bases, strict=True)
    ]
    found = drawing.integers(key, multipliers, wanted)
    return [np.asarray(n).reshape(size) for n, size in zip(found, sizes, strict=True)]


def whole():
    return drawn([Part(shape, (0,) * len(shape)) for shape in SHAPES], SHAPES)


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_parts_of_arrays_hold_what_the_whole_has_there(cut):
    """Every array is cut along the axes that so many parts divide."""
    cuts = [
        tuple(n if size % n == 0 else 1 for n, size in zip(cut, shape, strict=False))
        for shape in SHAPES
    ]
    expected = whole()
    for device in itertools.product(*map(range, cut)):
        sizes = [
            tuple(n // c for n, c in zip(shape, each, strict=True))
            for shape, each in zip(SHAPES, cuts, strict=True)
        ]
        places = [tuple(d % c for d, c in zip(device, each, strict=False)) for each in cuts]
        origins = [
            tuple(size * place for size, place in zip(part, where, strict=True))
            for part, where in zip(sizes, places, strict=True)
        ]
        parts = [Part(shape, origin) for shape, origin in zip(SHAPES, origins, strict=True)]
        for found, all_of_it, origin in zip(drawn(parts, sizes), expected, origins, strict=True):
            there = tuple(
                slice(start, start + size) for start, size in zip(origin, found.shape, strict=True)
            )
            np.testing.assert_array_equal(found, all_of_it[there])


def test_no_two_positions_have_the_same_integers():
    numbers = np.concatenate([n.ravel() for n in whole()])
    assert len(np.unique(numbers)) == numbers.size


def test_more_numbers_than_the_stream_has_are_refused(monkeypatch):
    monkeypatch.setattr(discrete, "LONGEST", 20)
    key = noise.noise_key(5, 0, "discrete_gaussian")
    assert len(noise.add_noise([jnp.ones(20)], key, 1.0, "discrete_gaussian")) == 1
    with pytest.raises(ValueError, match=r"at most 20 numbers.*Received: 24.*gaussian"):
        noise.add_noise([jnp.ones(21)], key, 1.0, "discrete_gaussian")
