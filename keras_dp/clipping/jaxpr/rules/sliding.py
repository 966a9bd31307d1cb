"""The geometry of a convolution's spatial axes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution.

    Attributes:
        kernel: Length of the kernel.
        stride: Step between outputs.
        low: Padding before the input; negative cuts off.
        high: Padding after it.
        spread: Step between input entries, above 1 in transposed convolutions.
        dilation: Step between kernel entries.
        size: Length of the input.
        out: Length of the output.
    """

    kernel: int
    stride: int
    low: int
    high: int
    spread: int
    dilation: int
    size: int
    out: int


def padded(rows: Any, config: Sequence[tuple[int, int, int]]) -> Any:
    """Pad the spatial axes of `(batch, n, *spatial, channels)`: before, after, between."""
    if not any(any(entry) for entry in config):
        return rows
    none = (0, 0, 0)
    return lax.pad(rows, jnp.zeros((), rows.dtype), (none, none, *config, none))


def cut(rows: Any, cuts: Sequence[tuple[int, int, int]]) -> Any:
    """Slice the spatial axes of `(batch, n, *spatial, channels)`: start, end, step."""
    starts, limits, strides = zip(*cuts, strict=True)
    ends = (*rows.shape[:2], *limits, rows.shape[-1])
    return lax.slice(rows, (0, 0, *starts, 0), ends, (1, 1, *strides, 1))


def offsets(axes: Sequence[Axis], shifted: Sequence[bool]) -> list[tuple[int, ...]]:
    """Return the kernel's offsets along the axes that are shifted, 0 along the others."""
    return list(
        itertools.product(
            *(range(axis.kernel) if yes else (0,) for axis, yes in zip(axes, shifted, strict=True))
        )
    )
