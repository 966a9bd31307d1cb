"""Discrete Gaussian noise on a lattice, which floating-point attacks cannot see through.

The law, the lattice and the bits are those of `backend/jax/noise/discrete.py`; the proof is in
docs/noise.md.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keras_dp.backend.discrete_table import SIGMA
from keras_dp.backend.host_noise.drawing import integers
from keras_dp.plan import LATTICE

Floats = npt.NDArray[np.float32]

KEY_BYTES = 32
_STEPS = LATTICE.bit_length()  # a standard deviation has 2**(_STEPS - 1) to 2**_STEPS steps
_LEAST = _STEPS - 125  # exponent of the least standard deviation; a smaller one is raised to it
_FARTHEST = np.float32(2.0**46)
_HALF = 16


class Lattice(NamedTuple):
    """The lattice for one standard deviation, and the noise that has it.

    Attributes:
        step: Float, a power of two, so that a sum is divided by it without rounding.
        inverse: Float, `1 / step`.
        multiplier: What the last of the three draws is multiplied with.
    """

    step: np.float32
    inverse: np.float32
    multiplier: int


def add(sums: list[Floats], key: npt.NDArray[np.uint32], stddevs: list[np.float32]) -> list[Floats]:
    """Return the sums on the lattice, with discrete Gaussian noise.

    Args:
        sums: List of arrays.
        key: uint32 array of shape `(8,)`.
        stddevs: List of floats. Without noise a sum stays as it is; noise that is not finite
            leaves nothing of it.

    Privacy:
        Every number is one that the Gaussian mechanism with this standard deviation, applied to
        the rounded sums, could have given with the same probability up to one part in 2^110, but
        for a probability of 2^-114. Rounding moves the sums of two neighbouring data sets apart by
        `step <= stddev / LATTICE` at most, in each number.

    Raises:
        ValueError: for more than 2^32 numbers: the stream of random integers ends there.
    """
    lattices = [lattice(stddev) if np.isfinite(stddev) else None for stddev in stddevs]
    multipliers = [0 if found is None else found.multiplier for found in lattices]
    drawn = integers(key, multipliers, [total.size for total in sums])
    released = []
    for total, noise, stddev, found in zip(sums, drawn, stddevs, lattices, strict=True):
        if found is None:
            released.append(np.full(total.shape, np.nan, np.float32))
        elif stddev == 0:
            released.append(total)
        else:
            released.append(release(total, noise.reshape(total.shape), found))
    return released


def lattice(stddev: np.float32 | float) -> Lattice:
    """Return the lattice for a standard deviation.

    It has `LATTICE` to `2 * LATTICE` steps in a standard deviation. The noise has at least the
    standard deviation asked for, and at most 6e-5 of it more, whatever float32 rounds.
    """
    mantissa, exponent = np.frexp(np.float32(stddev))
    exponent = max(int(exponent), _LEAST)
    multiplier = np.ceil(mantissa * np.float32(2**_STEPS / SIGMA)) + np.float32(1)
    step, inverse = (np.ldexp(np.float32(1), e) for e in (exponent - _STEPS, _STEPS - exponent))
    return Lattice(np.float32(step), np.float32(inverse), int(multiplier))


def release(total: Floats, noise: npt.NDArray[np.int32], found: Lattice) -> Floats:
    """Return `step * (round(total / step) + noise)` in float32.

    The integers are added exactly, in 64 bits. Only their sum is turned into a float: what rounding
    does then depends on nothing but the released integer.

    Args:
        total: float32 array.
        noise: int32 array of the same shape.
        found: The lattice.
    """
    scaled = np.round(total * found.inverse)
    scaled = np.clip(scaled, -_FARTHEST, _FARTHEST)  # moves no two sums apart
    points = np.where(np.isnan(scaled), 0, scaled).astype(np.int64) + noise
    return _in_float32(points) * found.step


def _in_float32(points: npt.NDArray[np.int64]) -> Floats:
    """Round integers to float32 in two parts, of which the lower has 16 bits."""
    high, low = points >> _HALF, points & (2**_HALF - 1)
    return high.astype(np.float32) * np.float32(2.0**_HALF) + low.astype(np.float32)
