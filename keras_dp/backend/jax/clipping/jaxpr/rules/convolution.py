"""Convolutions: 1D to 3D, strided, dilated, grouped, depthwise and transposed.

A kernel's gradient is a matrix product over positions, for each offset of the kernel:
`gradient[offset] = sum_p x[p + offset]' g[p]`. Here the offsets along some axes shift `x` and those
along the others shift `g` the other way, so a 3x3 kernel takes three copies of each and one batched
product, not nine copies of `x`. Under plain `vmap` it would be a grouped convolution.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from keras_dp.backend.jax.clipping.jaxpr import choose
from keras_dp.backend.jax.clipping.jaxpr.rules import norms
from keras_dp.backend.jax.clipping.jaxpr.rules.base import Cost, Factors, Gradients, Use, put_back
from keras_dp.backend.jax.clipping.jaxpr.rules.outer import Layout, Outer
from keras_dp.backend.jax.clipping.jaxpr.rules.sliding import (
    Axis,
    Windows,
    cut,
    each,
    of_input,
    of_output,
    padded,
    stacked,
    whole,
)
from keras_dp.backend.jax.clipping.jaxpr.sums import EXACT, exact_einsum, sum_each


@dataclass(frozen=True)
class Convolved(Gradients):
    """Gradients of a convolution's kernel.

    Attributes:
        x: Input, `(batch, n, *spatial, groups * left)`; `n` is the convolution's own batch.
        g: Gradient at the output, `(batch, n, *spatial, groups * right)`.
        axes: The spatial axes.
        groups: Number of feature groups.
        order: The kernel's axes in the order `(*kernel, left, groups * right)`.
        platform: The convolution of a whole batch as the platform does it.
        channel_axis: The kernel's axis of output channels.
    """

    x: Any
    g: Any
    axes: tuple[Axis, ...]
    groups: int
    order: tuple[int, ...]
    platform: "Platform"
    channel_axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all gradients."""
        return (self.x.shape[0], *self.platform.shape)

    def change_rows(self, change: Callable[[Any], Any]) -> "Convolved":
        """Change input and gradient."""
        return replace(self, x=change(self.x), g=change(self.g))

    def full(self) -> Any:
        """Return every example's gradient."""
        return self._full

    def squared_norms(self) -> Any:
        """Return the squared norm of every example's gradient."""
        if self.by_gram:
            return self.scaled_squared_norms(jnp.float32(1.0))
        return self.norms_of_full()

    def scaled_squared_norms(self, scales: Any) -> Any:
        """Return squared norms by Gram matrices, each output channel multiplied with a number.

        Args:
            scales: One number, or an array of shape `(groups * right,)`.
        """
        g = self.g.reshape(self.g.shape[0], -1, self.g.shape[-1]) * scales
        entries = self._offsets * self._left
        return norms.from_grams(
            self._patch_gram()[:, None], _gram(g)[:, None], entries, self._right
        )

    def products(self, kernel: Any) -> Any:
        """Return `<kernel, gradient_i>` of each output channel, `(batch, groups * right)`.

        Args:
            kernel: Array of the kernel's layout; its output channels may be one, for all alike.
        """
        out = self.platform.output(self.x, kernel.astype(self.x.dtype))
        axes = tuple(range(1, self.g.ndim - 1))
        return jnp.sum(out.astype(jnp.float32) * self.g.astype(jnp.float32), axis=axes)

    def weighted_sum(self, factors: Factors) -> Any:
        """Return the sum of the gradients, each multiplied with its factor."""
        if self.fits and not self.by_gram:
            return factors.contract(self._full)
        return self.platform.kernel_gradient(factors.keep(self.x), factors.scale(self.g))

    @functools.cached_property
    def by_gram(self) -> bool:
        """Whether norms come from Gram matrices of patches, and no gradient is written out."""
        plain = self.groups == 1 and self.x.shape[1] == 1
        if not plain or any(axis.spread > 1 for axis in self.axes):
            return False
        inputs, outputs = self._pixels
        return choose.patch_grams(inputs, outputs, self._offsets, self.x.shape[-1], self._right)

    @property
    def cost(self) -> Cost:
        """What the norms take."""
        batch = self.x.shape[0]
        size = self._offsets * self._left * self._right * self.groups
        if self.by_gram:
            inputs, outputs = self._pixels
            flops = inputs**2 * self._left + outputs**2 * (self._right + self._offsets)
            working = 4 * batch * (inputs**2 + 2 * outputs**2)
            return Cost("convolution, gram", 2 * batch * flops, 0, working)
        copies = 0 if self._is_depthwise else 8 * batch * self._numbers_in_copies
        return Cost("convolution, full", 2 * batch * size, 4 * batch * size, copies)

    @property
    def _numbers_in_copies(self) -> int:
        """How many numbers all shifted copies of an example have."""
        on_x = self._shift_x()
        pairs = zip(self.axes, on_x, strict=True)
        positions = math.prod(axis.out if shifted else axis.size for axis, shifted in pairs)
        return positions * int(self.x.shape[1]) * self.groups * self._channels_in_copies(on_x)

    @property
    def _is_depthwise(self) -> bool:
        return self._left == 1 and self.groups > 1

    @property
    def _pixels(self) -> tuple[int, int]:
        """Number of positions of the padded input and of the output."""
        inputs = math.prod(axis.size + axis.low + axis.high for axis in self.axes)
        return inputs, math.prod(axis.out for axis in self.axes)

    @property
    def _offsets(self) -> int:
        return math.prod(axis.kernel for axis in self.axes)

    @property
    def _left(self) -> int:
        return int(self.x.shape[-1]) // self.groups

    @property
    def _right(self) -> int:
        return int(self.g.shape[-1]) // self.groups

    @functools.cached_property
    def _full(self) -> Any:
        on_x = self._shift_x()
        x_windows, g_windows = zip(
            *(_windows(*pair) for pair in zip(self.axes, on_x, strict=True)), strict=True
        )
        product = _depthwise if self._is_depthwise else _matmul
        blocks = product(self.x, x_windows, self.g, g_windows, self.groups)
        sizes = [[len(axis.cuts) for axis in windows] for windows in (x_windows, g_windows)]
        blocks = blocks.reshape(len(blocks), *sizes[0], self._left, *sizes[1], -1)
        return put_back(_interleave(blocks), self.order)

    def _shift_x(self) -> list[bool]:
        """Decide for each axis whether `x` is shifted along it, or else `g`."""
        forced = [axis.stride > 1 or (False if axis.spread > 1 else None) for axis in self.axes]
        options = ([f] if f is not None else [True, False] for f in forced)
        choices = itertools.product(*options)
        return list(min(choices, key=self._channels_in_copies))

    def _channels_in_copies(self, on_x: Iterable[bool]) -> int:
        """Return how many channels of a group all shifted copies have at one position."""
        pairs = list(zip(self.axes, on_x, strict=True))
        shifted = [axis.kernel for axis, yes in pairs if yes]
        others = [axis.kernel for axis, yes in pairs if not yes]
        return math.prod(shifted) * self._left + math.prod(others) * self._right

    def _patch_gram(self) -> Any:
        """Inner products of all pairs of input patches, from those of all pairs of pixels."""
        x = padded(self.x, [(axis.low, axis.high, 0) for axis in self.axes])[:, 0]
        sizes = x.shape[1:-1]
        pixels = _gram(x.reshape(x.shape[0], -1, x.shape[-1]))
        pixels = pixels.reshape(x.shape[0], *sizes, *sizes)
        grams = []
        for cuts in itertools.product(*(of_input(axis).cuts for axis in self.axes)):
            starts, ends, steps = zip(*cuts, strict=True)
            limits = (len(x), *ends, *ends)
            grams.append(lax.slice(pixels, (0, *starts, *starts), limits, (1, *steps, *steps)))
        _, outputs = self._pixels
        return functools.reduce(operator.add, grams).reshape(len(x), outputs, outputs)


def convolution(use: Use) -> Gradients | None:
    """Take a convolution of data with a kernel of weights apart."""
    params, (x, kernel) = use.equation.params, use.equation.inputs
    if kernel is not use.weight or x not in use.data or params["batch_group_count"] != 1:
        return None
    numbers = params["dimension_numbers"]
    spec, out = numbers.lhs_spec, numbers.out_spec
    rows = _channels_last(use.data[x], spec)
    g = _channels_last(use.cotangents[0], out)
    order = (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    axes = tuple(
        Axis(*each)
        for each in zip(
            (use.weight.shape[i] for i in numbers.rhs_spec[2:]),
            params["window_strides"],
            (low for low, _ in params["padding"]),
            (high for _, high in params["padding"]),
            params["lhs_dilation"],
            params["rhs_dilation"],
            rows.shape[2:-1],
            g.shape[2:-1],
            strict=True,
        )
    )
    groups = params["feature_group_count"]
    if groups == 1 and all(_pointwise(axis) for axis in axes):
        return _as_product(rows, g, axes, use.weight.shape, order)
    platform = Platform(params, kernel.shape, kernel.dtype)
    return Convolved(rows, g, axes, groups, order, platform, numbers.rhs_spec[0])


@dataclass(frozen=True)
class Platform:
    """The convolution of a site, on a whole batch at once.

    Attributes:
        params: Parameters of the primitive.
        shape: Shape of the kernel.
        dtype: Its dtype.
    """

    params: dict[str, Any]
    shape: tuple[int, ...]
    dtype: Any

    def output(self, rows: Any, kernel: Any) -> Any:
        """Return the output for `(batch, n, *spatial, channels)`, in the same order of axes."""
        folded = _own_layout(rows, self._numbers.lhs_spec)
        out = self._convolve(folded, kernel, self.params["precision"])
        order = (self._numbers.out_spec[0], *self._numbers.out_spec[2:], self._numbers.out_spec[1])
        return out.transpose(order).reshape(*rows.shape[:2], *(out.shape[i] for i in order[1:]))

    def kernel_gradient(self, rows: Any, g: Any) -> Any:
        """Return the kernel's gradient over the batch, in float32 even if the site has less."""
        wide = jnp.promote_types(self.dtype, jnp.float32)
        rows = _own_layout(rows, self._numbers.lhs_spec).astype(wide)
        g = _own_layout(g, self._numbers.out_spec).astype(wide)
        like = jnp.zeros(self.shape, wide)
        (gradient,) = jax.vjp(lambda kernel: self._convolve(rows, kernel, EXACT), like)[1](g)
        return gradient.astype(jnp.float32)

    @property
    def _numbers(self) -> Any:
        return self.params["dimension_numbers"]

    def _convolve(self, rows: Any, kernel: Any, precision: Any) -> Any:
        return lax.conv_general_dilated(
            rows,
            kernel,
            self.params["window_strides"],
            self.params["padding"],
            self.params["lhs_dilation"],
            self.params["rhs_dilation"],
            self._numbers,
            precision=precision,
        )


def _pointwise(axis: Axis) -> bool:
    return axis.kernel == 1 and axis.spread == 1


def _as_product(
    rows: Any, g: Any, axes: Sequence[Axis], shape: tuple[int, ...], order: tuple[int, ...]
) -> Outer:
    """Treat a convolution with a kernel of one pixel as the matrix product that it is."""
    rows = padded(rows, [(axis.low, axis.high, 0) for axis in axes])
    rows = cut(rows, [(0, (axis.out - 1) * axis.stride + 1, axis.stride) for axis in axes])
    left, right = (a.reshape(a.shape[0], 1, -1, a.shape[-1]) for a in (rows, g))
    return Outer(left, right, Layout(shape, (), order[:-1], order[-1:]))


def _channels_last(rows: Any, spec: Sequence[int]) -> Any:
    """Bring `(batch, turns, ...)` into the order `(batch, n, *spatial, channels)`."""
    order = (spec[0], *spec[2:], spec[1])
    moved = rows.transpose(0, 1, *(axis + 2 for axis in order))
    return moved.reshape(moved.shape[0], moved.shape[1] * moved.shape[2], *moved.shape[3:])


def _own_layout(rows: Any, spec: Sequence[int]) -> Any:
    """Fold the batch into the convolution's own and go back to its order of axes."""
    rows = rows.reshape(-1, *rows.shape[2:])
    return put_back(rows, (spec[0], *spec[2:], spec[1]))


def _windows(axis: Axis, shift_x: bool) -> tuple[Windows, Windows]:
    """Return the windows of `x` and of `g` along an axis."""
    if shift_x:
        return of_input(axis), whole(axis.out)
    return whole(axis.size), of_output(axis)


def _matmul(
    x: Any, x_windows: Sequence[Windows], g: Any, g_windows: Sequence[Windows], groups: int
) -> Any:
    """Return `(batch, windows of x, left, windows of g, groups * right)`."""
    left, right = (
        _by_group(stacked(rows, windows), groups)
        for rows, windows in ((x, x_windows), (g, g_windows))
    )
    return exact_einsum("bpkgl,bpmgr->bklmgr", left, right)


def _depthwise(
    x: Any, x_windows: Sequence[Windows], g: Any, g_windows: Sequence[Windows], groups: int
) -> Any:
    """Do the same for one input channel a group, where it is a product and a sum."""
    xs = [part[..., None].astype(jnp.float32) for part in each(x, x_windows)]
    gs = [
        part.reshape(*part.shape[:-1], groups, -1).astype(jnp.float32)
        for part in each(g, g_windows)
    ]
    sums = sum_each([x * g for x in xs for g in gs], range(1, xs[0].ndim - 2))
    rows = jnp.stack([total.reshape(total.shape[0], -1) for total in sums], axis=1)
    return rows.reshape(len(rows), len(xs), len(gs), -1)


def _by_group(copies: Any, groups: int) -> Any:
    """Bring stacked copies into the order `(batch, position, window, group, channel)`."""
    spatial = (copies.ndim - 3) // 2
    shape = copies.shape
    positions, windows = math.prod(shape[1 : 2 + spatial]), math.prod(shape[2 + spatial : -1])
    return copies.reshape(shape[0], positions, windows, groups, shape[-1] // groups)


def _interleave(blocks: Any) -> Any:
    """Bring `(batch, *windows of x, left, *windows of g, right)` into the kernel's order.

    Along each axis either `x` has the windows, or `g`, and the other has one.
    """
    spatial = (blocks.ndim - 3) // 2
    pairs = [(i, i + spatial + 1) for i in range(1, 1 + spatial)]
    left, right = 1 + spatial, blocks.ndim - 1
    kernel = [blocks.shape[i] * blocks.shape[j] for i, j in pairs]
    parts = blocks.transpose(0, *itertools.chain(*pairs), left, right)
    return parts.reshape(len(blocks), *kernel, blocks.shape[left], blocks.shape[right])


def _gram(rows: Any) -> Any:
    return exact_einsum("bpc,bqc->bpq", rows, rows)
