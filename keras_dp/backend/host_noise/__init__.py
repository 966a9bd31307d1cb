"""Noise on the host, in NumPy: the law and, for discrete noise, the bits are those on JAX."""

from typing import Any

import numpy as np
import numpy.typing as npt

from keras_dp.backend.host_noise import discrete, gaussian

_KINDS: dict[str, Any] = {"gaussian": gaussian, "discrete_gaussian": discrete}
NOISE_KEY_BYTES = {name: kind.KEY_BYTES for name, kind in _KINDS.items()}
"""Bytes that the key of an update's noise has, for each kind of noise."""


def noisy(
    kind: str, sums: list[Any], key: Any, stddevs: list[Any]
) -> list[npt.NDArray[np.float32]]:
    """Return the sums with noise of one kind, in float32.

    Args:
        kind: A name in `NOISE_KEY_BYTES`.
        sums: List of NumPy arrays.
        key: uint32 array with as many bytes as `NOISE_KEY_BYTES` says.
        stddevs: List of floats, one for each of the sums.

    Raises:
        ValueError: for a key of another size.
    """
    key = np.ascontiguousarray(key, np.uint32)
    if key.nbytes != NOISE_KEY_BYTES[kind]:
        raise ValueError(
            f"A key of {kind!r} noise must have {NOISE_KEY_BYTES[kind]} bytes. Received: "
            f"{key.nbytes}. Make it with `keras_dp.noise.noise_key`."
        )
    totals = [np.asarray(total).astype(np.float32, copy=False) for total in sums]
    added: list[Any] = _KINDS[kind].add(totals, key, [np.float32(stddev) for stddev in stddevs])
    return added
