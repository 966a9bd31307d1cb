"""The geometry of a convolution's spatial axes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class Windows(NamedTuple):
    """The windows that a kernel's offsets cut from one axis.

    Attributes:
        padding: Entries to add first: before, after, between.
        cuts: Start, end and step of each window.
    """

    padding: tuple[int, int, int]
    cuts: tuple[tuple[int, int, int], ...]


def whole(length: int) -> Windows:
    """Leave an axis as it is."""
    return Windows((0, 0, 0), ((0, length, 1),))


def of_input(axis: Axis) -> Windows:
    """Return the input at the positions of the output, for each offset of the kernel."""
    starts = (at * axis.dilation for at in range(axis.kernel))
    reach = (axis.out - 1) * axis.stride + 1
    cuts = tuple((start, start + reach, axis.stride) for start in starts)
    return Windows((axis.low, axis.high, axis.spread - 1), cuts)


def of_output(axis: Axis) -> Windows:
    """Return the output at the positions of the input, for each offset of the kernel.

    Positions that no output has are 0. The axis has stride 1.
    """
    starts = [axis.low - at * axis.dilation for at in range(axis.kernel)]
    reach = (axis.size - 1) * axis.spread + 1
    before, after = max(0, -starts[-1]), max(0, starts[0] + reach - axis.out)
    cuts = tuple((before + start, before + start + reach, axis.spread) for start in starts)
    return Windows((before, after, 0), cuts)


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


def each(rows: Any, windows: Sequence[Windows]) -> list[Any]:
    """Return a copy of `(batch, n, *spatial, channels)` for each combination of windows."""
    rows = padded(rows, [axis.padding for axis in windows])
    return [cut(rows, cuts) for cuts in itertools.product(*(axis.cuts for axis in windows))]


def stacked(rows: Any, windows: Sequence[Windows]) -> Any:
    """Return the same copies as one array, `(batch, n, *spatial, *windows, channels)`.

    It is made axis by axis, which takes the sum of their windows' numbers in slices, not the
    product.
    """
    rows = padded(rows, [axis.padding for axis in windows])
    for i, axis in enumerate(windows, start=2):
        rows = jnp.stack([lax.slice_in_dim(rows, *entry, axis=i) for entry in axis.cuts], axis=-2)
    return rows
