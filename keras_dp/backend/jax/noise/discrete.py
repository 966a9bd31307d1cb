"""Discrete Gaussian noise on a lattice, which floating-point attacks cannot see through.

A released number is a lattice point: `step * (round(sum / step) + noise)`, with whole-number
arithmetic in between, so the set of possible outcomes does not depend on the data. The noise is
`x + INNER * y + multiplier * z` for three draws from one table: a sum of discrete Gaussians whose
scales lie close enough together is a discrete Gaussian again, up to one part in 2^110. The proof
is in docs/noise.md.

References:
    Canonne, Kamath and Steinke 2020, The Discrete Gaussian for Differential Privacy; Micciancio
    and Walter 2017, Gaussian Sampling over the Integers: Efficient, Generic, Constant-Time;
    Mironov 2012, On Significance of the Least Significant Bits for Differential Privacy.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from keras_dp.backend.discrete_table import LONGEST, SIGMA
from keras_dp.backend.jax.noise.drawing import integers, positions, stretches_of
from keras_dp.plan import LATTICE
from keras_dp.types import ByDevice, Part

KEY_BYTES = 32
_STEPS = LATTICE.bit_length()  # a standard deviation has 2**(_STEPS - 1) to 2**_STEPS steps
_LEAST = _STEPS - 125  # exponent of the least standard deviation; a smaller one is raised to it
_FARTHEST = 2.0**46
_HALF = 16


class Lattice(NamedTuple):
    """The lattice for one standard deviation, and the noise that has it.

    Attributes:
        step: Float, a power of two, so that a sum is divided by it without rounding.
        inverse: Float, `1 / step`.
        multiplier: int32, what the last of the three draws is multiplied with.
    """

    step: Any
    inverse: Any
    multiplier: Any


def add(
    sums: list[Any], key: Any, stddevs: list[Any], by_device: ByDevice | None = None
) -> list[Any]:
    """Return the sums on the lattice, with discrete Gaussian noise.

    Args:
        sums: List of arrays.
        key: uint32 array of shape `(8,)`.
        stddevs: List of floats. Entries that are one object share a lattice.
        by_device: Lets every device work on the parts of the sums that it holds. Without it there
            is one device.

    Privacy:
        Every number is one that the Gaussian mechanism with this standard deviation, applied to
        the rounded sums, could have given with the same probability up to one part in 2^110, but
        for a probability of 2^-114. Rounding moves the sums of two neighbouring data sets apart by
        `step <= stddev / LATTICE` at most, in each number.

    Raises:
        ValueError: for more than 2^32 numbers: the stream of random integers ends there.
    """
    if not sums:
        return []
    different = list({id(stddev): stddev for stddev in stddevs}.values())
    which = [next(i for i, one in enumerate(different) if one is stddev) for stddev in stddevs]
    bases, end = positions([total.shape for total in sums])
    if end > LONGEST:
        raise ValueError(
            f"Discrete noise is drawn for at most {LONGEST} numbers in an update. Received: {end}. "
            'Use `noise="gaussian"`.'
        )

    def add_to(parts: list[Part], totals: list[Any], known: tuple[Any, list[Any]]) -> list[Any]:
        key, scales = known
        lattices = [lattice(stddev) for stddev in scales]
        wanted = [
            stretches_of(part, total.shape, base)
            for part, total, base in zip(parts, totals, bases, strict=True)
        ]
        multipliers = jnp.stack([lattices[i].multiplier for i in which])
        drawn = integers(key, multipliers, wanted)
        return [
            _noisy(total, noise.reshape(total.shape), scales[i], lattices[i])
            for total, noise, i in zip(totals, drawn, which, strict=True)
        ]

    known = (key, [jnp.asarray(stddev, jnp.float32) for stddev in different])
    if by_device is not None:
        return by_device(add_to, sums, known)
    return add_to([Part(total.shape, (0,) * total.ndim) for total in sums], sums, known)


def _noisy(total: Any, noise: Any, stddev: Any, found: Lattice) -> Any:
    total = total.astype(jnp.float32)
    # Noise that is not finite must not come out as little noise.
    released = jnp.where(jnp.isfinite(stddev), release(total, noise, found), jnp.nan)
    return jnp.where(stddev == 0, total, released)


def lattice(stddev: Any) -> Lattice:
    """Return the lattice for a standard deviation, a float.

    It has `LATTICE` to `2 * LATTICE` steps in a standard deviation. The noise has at least the
    standard deviation asked for, and at most 6e-5 of it more, whatever float32 rounds.
    """
    mantissa, exponent = jnp.frexp(jnp.asarray(stddev, jnp.float32))
    exponent = jnp.maximum(exponent, _LEAST)
    multiplier = jnp.ceil(mantissa * (2**_STEPS / SIGMA)) + 1
    return Lattice(
        _power_of_two(exponent - _STEPS),
        _power_of_two(_STEPS - exponent),
        multiplier.astype(jnp.int32),
    )


def _power_of_two(exponent: Any) -> Any:
    """Return `2**exponent` in float32, exactly, for exponents from -126 to 127."""
    return lax.bitcast_convert_type((exponent.astype(jnp.int32) + 127) << 23, jnp.float32)


def release(total: Any, noise: Any, found: Lattice) -> Any:
    """Return `step * (round(total / step) + noise)` in float32.

    The integers are added exactly, in two parts of which the lower has 16 bits. Only their sum is
    turned into a float: what rounding does then depends on nothing but the released integer.

    Args:
        total: float32 array.
        noise: int32 array of the same shape.
        found: The lattice.
    """
    scaled = jnp.round(total * found.inverse)
    scaled = jnp.clip(scaled, -_FARTHEST, _FARTHEST)  # moves no two sums apart
    above = jnp.floor(scaled * 2.0**-_HALF)
    low = (scaled - above * 2.0**_HALF).astype(jnp.int32) + (noise & (2**_HALF - 1))
    high = above.astype(jnp.int32) + (noise >> _HALF) + (low >> _HALF)
    low = low & (2**_HALF - 1)
    return (high.astype(jnp.float32) * 2.0**_HALF + low.astype(jnp.float32)) * found.step
