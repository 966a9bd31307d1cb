"""Noise on a mesh: the same bits as on one device, and on each device only what it needs."""

import jax
import numpy as np
import pytest

from keras_dp import backend, noise
from tests.mesh.placements import MESHES, model, on

KINDS = ["gaussian", "discrete_gaussian"]


def noisy(mesh, kind):
    """Return clipped sums of 1, 2, 3 ... with noise, laid out as the weights of a model."""
    with on(mesh):
        placed, variables = backend.placement(), model().trainable_variables
        key = noise.noise_key(0, 7, kind)

        def add():
            rows = [np.full(v.shape, i, np.float32) for i, v in enumerate(variables)]
            sums = placed.laid_out(rows, variables)
            return noise.add_noise(sums, key, 0.3, kind, placed.by_device(variables))

        return jax.jit(add)()


@pytest.fixture(scope="module", params=KINDS)
def alone(request):
    return request.param, noisy(None, request.param)


@pytest.mark.parametrize("mesh", MESHES)
def test_noise_is_that_of_one_device_bit_for_bit(mesh, alone):
    kind, expected = alone
    found = noisy(mesh, kind)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        assert np.unique(np.asarray(one)).size > 0.99 * one.size
