"""What an attacker does who looks at which numbers a noisy sum can be.

It knows the true sum of two data sets that differ in one example, and the standard deviation of the
noise, which are no secrets in differential privacy. It sees one released number and asks: which
of the two sums can have led to it, with any noise that the generator can make at all? Where only
one can, that data set was used, beyond all doubt. (Mironov 2012; Jin et al. 2022 for Gaussian
noise and for training.)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from keras_dp.backend.discrete_table import CELLS
from keras_dp.backend.jax.noise import discrete, drawing


@functools.cache
def _float32_roots():
    """Return all that `jax.random.normal` can make in float32, divided by sqrt(2), in order.

    It turns 23 random bits into a uniform number of (-1, 1) and that into a normal one.
    """

    @jax.jit
    def root_of(bits):
        low, high = np.nextafter(np.float32(-1), np.float32(0)), np.float32(1)
        ones = lax.bitcast_convert_type(jnp.float32(1), jnp.uint32)
        uniform = lax.bitcast_convert_type(bits | ones, jnp.float32) - 1
        uniform = jnp.maximum(low, uniform * (high - low) + low)
        return lax.erf_inv(uniform)

    return np.unique(np.asarray(root_of(jnp.arange(2**23, dtype=jnp.uint32))))


@jax.jit
def _float32_sums(total, stddev, roots):
    """As the sampler and the step compute it, in one compiled piece: XLA reorders the factors."""
    return total + stddev * (np.float32(np.sqrt(2)) * roots)


def float32_sums(total, stddev):
    """Return every number that `total` and float32 noise can give, in order."""
    sums = _float32_sums(jnp.float32(total), jnp.float32(stddev), _float32_roots())
    return np.asarray(sums)


def float32_can_give(released, total, stddev):
    """Return for each released number whether `total` and float32 noise can have led to it."""
    possible = float32_sums(total, stddev)
    places = np.minimum(np.searchsorted(possible, released), len(possible) - 1)
    return possible[places] == released


def discrete_can_give(released, total, stddev):
    """Return for each released number whether `total` and discrete noise can have led to it.

    Every integer up to the largest is a value of the noise, so a released number is possible if it
    is a lattice point at no greater distance from the total.
    """
    found = jax.tree.map(float, discrete.lattice(stddev))
    farthest = (CELLS - 1) * (1 + drawing.INNER + found.multiplier)
    points = np.float64(released) / found.step
    distances = np.abs(points - np.round(np.float64(total) / found.step))
    return (points == np.round(points)) & (distances <= farthest)
