"""Gaussian noise: what kinds there are, their keys, and the one place where it is added."""

from typing import Any

import numpy as np

from keras_dp import backend, keys, validation
from keras_dp.types import ByDevice


def noise_key(seed: int | None, update: int, kind: str = "gaussian", part: str = "") -> np.ndarray:
    """Return the key of one update's noise: uint32 words, as many as the kind of noise takes.

    Args:
        seed: `None` for the operating system's entropy, or the user's seed.
        update: Number of updates made before this one.
        kind: The kind of noise, `"gaussian"` (default) or `"discrete_gaussian"`.
        part: What the noise is for, where an update has several keys.
    """
    purpose = f"noise of {part}" if part else "noise"
    size = backend.NOISE_KEY_BYTES[kind]
    return np.frombuffer(keys.update_key(seed, purpose, update, size), dtype=np.uint32)


def add_noise(
    sums: list[Any],
    key: Any,
    stddev: Any,
    kind: str = "gaussian",
    by_device: ByDevice | None = None,
) -> list[Any]:
    """Add Gaussian noise to the clipped sums, once for an update.

    Args:
        sums: List of float32 arrays, the clipped sums of one whole update.
        key: uint32 array of `noise_key`, used for this update only.
        stddev: Float, standard deviation of the noise, `noise_multiplier * clip_norm`; or a list
            with one for each entry.
        kind: The kind of noise: `"gaussian"` (default), or `"discrete_gaussian"`, which is safe
            from attacks on floating-point noise.
        by_device: Lets every device draw noise for the parts of the sums that it holds; needed on
            several devices only. The noise does not depend on it.

    Returns:
        List of float32 arrays.

    Privacy:
        The Gaussian mechanism, if the sums move by at most the sensitivity in L2 norm when one
        example is added or removed. With discrete noise the sensitivity is that of the sums
        rounded to a lattice: see `PrivacyPlan.raised_noise_multiplier`, which allows for it.
    """
    validation.one_of("noise", kind, backend.NOISE_KEY_BYTES)
    stddevs = stddev if isinstance(stddev, list) else [stddev] * len(sums)
    return backend.add_noise(kind, sums, key, stddevs, by_device)
