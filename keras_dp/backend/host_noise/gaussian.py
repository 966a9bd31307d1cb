"""Gaussian noise in float32, one independent draw for each variable."""

import hashlib

import numpy as np
import numpy.typing as npt

KEY_BYTES = 16


def add(
    sums: list[npt.NDArray[np.float32]], key: npt.NDArray[np.uint32], stddevs: list[np.float32]
) -> list[npt.NDArray[np.float32]]:
    """Return `sums[i] + stddevs[i] * N(0, I)`, drawn in float32 with a key for each entry.

    Args:
        sums: List of arrays.
        key: uint32 array of shape `(4,)`.
        stddevs: List of floats.

    Privacy:
        The Gaussian mechanism up to rounding: float32 has few distinct values far out, and the last
        bits of a released sum tell an attacker more than the mechanism says. Discrete noise has no
        such bits.
    """
    return [
        total + stddev * _generator(key, index).standard_normal(total.shape, np.float32)
        for index, (total, stddev) in enumerate(zip(sums, stddevs, strict=True))
    ]


def _generator(key: npt.NDArray[np.uint32], index: int) -> np.random.Generator:
    """Return the generator of one variable, whose 128-bit key follows from the update's."""
    own = hashlib.blake2b(index.to_bytes(8, "little"), key=key.tobytes(), digest_size=KEY_BYTES)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(own.digest(), "little")))
