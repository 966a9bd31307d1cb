"""Gaussian noise in float32, one independent draw for each variable."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from keras_dp.types import ByDevice

KEY_BYTES = 8
SMALL = 1024
"""Variables up to this size are drawn together."""


def add(
    sums: list[Any], key: Any, stddevs: list[Any], by_device: ByDevice | None = None
) -> list[Any]:
    """Return `sums[i] + stddevs[i] * N(0, I)`, drawn in float32 with a key for each entry.

    Args:
        sums: List of arrays.
        key: uint32 array of shape `(2,)`.
        stddevs: List of floats.
        by_device: Not needed: XLA lets every device draw for the parts that it holds.

    Privacy:
        The Gaussian mechanism up to rounding. In lower precision the noise has few distinct values
        and no tail, so it is drawn and added in float32 whatever the dtype policy. An attacker who
        looks at the last bits of a released sum learns more than the mechanism says.
    """
    del by_device
    root = jax.random.wrap_key_data(key, impl="threefry2x32")
    draws = _standard_normals(root, [total.shape for total in sums])
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
