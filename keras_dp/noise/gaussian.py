"""Gaussian noise in float32, one independent draw for each variable."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from keras_dp import keys

KEY_BYTES = 8
SMALL = 1024
"""Variables up to this size are drawn together."""


def noise_key(seed: int | None, update: int) -> np.ndarray:
    """Return the key of one update's noise, as two uint32 words.

    Args:
        seed: `None` for the operating system's entropy, or the user's seed.
        update: Number of updates made before this one.
    """
    return np.frombuffer(keys.update_key(seed, "noise", update, KEY_BYTES), dtype=np.uint32)


def add_noise(sums: list[Any], key: Any, stddev: Any) -> list[Any]:
    """Add Gaussian noise to the clipped sums, once for an update.

    `sums[i] + stddev * N(0, I)`, drawn in float32 with a key of its own for each entry.

    Args:
        sums: List of float32 arrays, the clipped sums of one whole update.
        key: uint32 array of shape `(2,)`, used for this update only.
        stddev: Float, standard deviation of the noise, `noise_multiplier * clip_norm`.

    Returns:
        List of float32 arrays.

    Privacy:
        The Gaussian mechanism, if the sums move by at most the sensitivity in L2 norm when one
        example is added or removed. In lower precision the noise has few distinct values and no
        tail, so it is drawn and added in float32 whatever the dtype policy.
    """
    root = jax.random.wrap_key_data(key, impl="threefry2x32")
    draws = _standard_normals(root, [total.shape for total in sums])
    stddevs = stddev if isinstance(stddev, list) else [stddev] * len(sums)
    return [
        total.astype(jnp.float32) + scale * draw
        for total, scale, draw in zip(sums, stddevs, draws, strict=True)
    ]


def _standard_normals(root: Any, shapes: list[tuple[int, ...]]) -> list[Any]:
    """Draw for each shape with a key of its own, compiled once for every group of equal shapes.

    XLA takes a tenth of a second to compile one draw. All small shapes form one group, drawn at the
    size of the largest; what is not needed is dropped.
    """
    small = max((n for n in map(math.prod, shapes) if n <= SMALL), default=0)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        groups.setdefault((small,) if math.prod(shape) <= small else shape, []).append(index)
    draws: dict[int, Any] = {}
    for drawn, members in groups.items():
        group_keys = jax.vmap(jax.random.fold_in, (None, 0))(root, np.array(members, np.uint32))
        rows = jax.vmap(lambda key, s=drawn: jax.random.normal(key, s, jnp.float32))(group_keys)
        for row, index in zip(rows, members, strict=True):
            shape = shapes[index]
            draws[index] = row.reshape(-1)[: math.prod(shape)].reshape(shape)
    return [draws[index] for index in range(len(shapes))]
