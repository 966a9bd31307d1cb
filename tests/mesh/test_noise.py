"""Noise on a mesh is that of one device."""

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
def test_noise_is_that_of_one_device(mesh, alone):
    """Bit for bit; XLA may round a Gaussian's last step otherwise in loops of another length."""
    kind, expected = alone
    found = noisy(mesh, kind)
    for one, other in zip(found, expected, strict=True):
        if kind == "discrete_gaussian":
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        np.testing.assert_array_max_ulp(np.asarray(one), np.asarray(other), maxulp=2)
        assert np.mean(np.asarray(one) == np.asarray(other)) > 0.95
        assert np.unique(np.asarray(one)).size > 0.99 * one.size
