"""Equal, faster forms of operations that a platform is known to do slowly.

On CPU, XLA's depthwise convolution is one: as a sum of shifted products it is 20 to 40 times faster
(3x3 on 32 images of 48x48x96: 4 ms, not 160; its gradient 5, not 165). A strided convolution of
images is another: as a matrix product of patches it takes half the time (3x3, stride 2, 8 images of
96x96x3: 0.5 ms, not 1.0). Other convolutions are best left to XLA.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from keras_dp.backend.jax.clipping.jaxpr.compat import primitives
from keras_dp.backend.jax.clipping.jaxpr.sums import sum_each

Form = Callable[..., list[Any]]

FEW_CHANNELS, FEW_OFFSETS = 4, 9
"""Input channels and kernel offsets up to which patches are faster than XLA's strided form; with
49 offsets they take 9 times as long."""


def faster_form(primitive: Any, params: dict[str, Any], avals: Sequence[Any]) -> Form | None:
    """Return an equal, faster form of an operation on this platform, if there is one.

    Args:
        primitive: The JAX primitive.
        params: Its parameters.
        avals: Shapes and dtypes of its inputs, in the primitive's order.

    Returns:
        A function of the inputs that gives the list of outputs, or `None`.
    """
    if primitive is primitives.conv_general_dilated_p and jax.default_backend() == "cpu":
        if not _is_plain(params, avals):
            return None
        if _is_depthwise(params, avals):
            return partial(_depthwise, params)
        return partial(_patches, params) if _is_stem(params, avals) else None
    return None


def _is_plain(params: dict[str, Any], avals: Sequence[Any]) -> bool:
    """Whether channels come last, and nothing is dilated, grouped by batch or widened."""
    numbers = params["dimension_numbers"]
    rank = len(numbers.lhs_spec)
    channels_last = (0, rank - 1, *range(1, rank - 1))
    return (
        params["batch_group_count"] == 1
        and all(step == 1 for step in params["lhs_dilation"])
        and numbers.lhs_spec == numbers.out_spec == channels_last
        and params["preferred_element_type"] in (None, avals[0].dtype)
    )


def _is_depthwise(params: dict[str, Any], avals: Sequence[Any]) -> bool:
    groups = params["feature_group_count"]
    return groups > 1 and avals[0].shape[-1] == groups


def _is_stem(params: dict[str, Any], avals: Sequence[Any]) -> bool:
    """Whether a convolution is the strided first one on images."""
    offsets = [avals[1].shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
    return (
        params["feature_group_count"] == 1
        and len(offsets) == 2
        and avals[0].shape[-1] <= FEW_CHANNELS
        and 1 < math.prod(offsets) <= FEW_OFFSETS
        and max(params["window_strides"]) > 1
    )


def _unfolded(params: dict[str, Any], x: Any, kernel: Any) -> tuple["Window", Any]:
    """Return how the kernel slides, and the kernel with axes `(*kernel, inputs, outputs)`."""
    numbers = params["dimension_numbers"]
    kernel = kernel.transpose((*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]))
    window = Window(
        tuple(params["window_strides"]),
        tuple(params["rhs_dilation"]),
        tuple(params["padding"]),
        tuple(x.shape[1:-1]),
        tuple(kernel.shape[:-2]),
    )
    return window, kernel


def _patches(params: dict[str, Any], x: Any, kernel: Any) -> list[Any]:
    """Compute a convolution with channels last as one product of patches with the kernel."""
    window, kernel = _unfolded(params, x, kernel)
    padded = window.pad(x)
    patches = jnp.concatenate(list(window.cuts(padded)), axis=-1)
    rows = kernel.reshape(-1, kernel.shape[-1])
    flat = lax.dot(patches.reshape(-1, len(rows)), rows, precision=params["precision"])
    return [flat.reshape(*patches.shape[:-1], -1)]


def _depthwise(params: dict[str, Any], x: Any, kernel: Any) -> list[Any]:
    """Compute a depthwise convolution with channels last, any strides, padding and dilation."""
    window, kernel = _unfolded(params, x, kernel)
    kernel = kernel.reshape(*kernel.shape[:-2], x.shape[-1], -1)
    if kernel.shape[-1] == 1:
        return [_shifted_products(window, x, kernel[..., 0])]
    parts = [_shifted_products(window, x, kernel[..., m]) for m in range(kernel.shape[-1])]
    stacked = jnp.stack(parts, axis=-1)
    return [stacked.reshape(*stacked.shape[:-2], -1)]


@dataclass(frozen=True)
class Window:
    """How a kernel slides: strides, dilations, padding, and the lengths of input and kernel."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]
    kernel: tuple[int, ...]

    @property
    def padded(self) -> list[int]:
        """Lengths of the padded input."""
        return [n + low + high for n, (low, high) in zip(self.sizes, self.padding, strict=True)]

    @property
    def outs(self) -> list[int]:
        """Lengths of the output."""
        spans = ((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        return [
            (n - span) // stride + 1
            for n, span, stride in zip(self.padded, spans, self.strides, strict=True)
        ]

    def offsets(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """Yield each kernel offset with the phase it falls on and its shift, both in strides."""
        for offset in itertools.product(*map(range, self.kernel)):
            moves = [at * d for at, d in zip(offset, self.dilations, strict=True)]
            phase = tuple(m % stride for m, stride in zip(moves, self.strides, strict=True))
            shift = tuple(m // stride for m, stride in zip(moves, self.strides, strict=True))
            yield offset, phase, shift

    def cuts(self, padded: Any) -> Iterator[Any]:
        """Yield, for each kernel offset, the entries of the padded input that it meets."""
        for _, phase, shift in self.offsets():
            starts = [p + at * s for p, at, s in zip(phase, shift, self.strides, strict=True)]
            limits = [
                start + (out - 1) * stride + 1
                for start, out, stride in zip(starts, self.outs, self.strides, strict=True)
            ]
            yield lax.slice(
                padded,
                (0, *starts, 0),
                (padded.shape[0], *limits, padded.shape[-1]),
                (1, *self.strides, 1),
            )

    def pad(self, x: Any, *, back: bool = False) -> Any:
        """Pad the input, or take the padding away from an array of the padded size."""
        sign = -1 if back else 1
        config = [(sign * low, sign * high, 0) for low, high in self.padding]
        return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *config, (0, 0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _shifted_products(window: Window, x: Any, kernel: Any) -> Any:
    """Add up, over the kernel's offsets, the shifted input times the kernel's entry there."""
    padded = window.pad(x)
    channels = x.shape[-1]
    phases: dict[tuple[int, ...], Any] = {}
    total: Any = 0.0
    for offset, phase, shift in window.offsets():
        if phase not in phases:
            phases[phase] = lax.slice(padded, (0, *phase, 0), padded.shape, (1, *window.strides, 1))
        limits = [at + out for at, out in zip(shift, window.outs, strict=True)]
        moved = lax.slice(phases[phase], (0, *shift, 0), (x.shape[0], *limits, channels))
        total = total + moved * kernel[offset]
    return total


def _forward(window: Window, x: Any, kernel: Any) -> tuple[Any, tuple[Any, Any]]:
    return _shifted_products(window, x, kernel), (x, kernel)


def _backward(window: Window, kept: tuple[Any, Any], g: Any) -> tuple[Any, Any]:
    """Return the gradients; that of the input is a sum of shifted products again, by phase."""
    x, kernel = kept
    return _input_gradient(window, kernel, g), _kernel_gradient(window, x, kernel, g)


def _input_gradient(window: Window, kernel: Any, g: Any) -> Any:
    counts = [-(-n // stride) for n, stride in zip(window.padded, window.strides, strict=True)]
    reach = [
        max(shifts) for shifts in zip(*(shift for _, _, shift in window.offsets()), strict=True)
    ]
    after = [max(0, count - out) for count, out in zip(counts, window.outs, strict=True)]
    config = [(low, high, 0) for low, high in zip(reach, after, strict=True)]
    padded = lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), *config, (0, 0, 0)))
    shape = (g.shape[0], *counts, g.shape[-1])
    sums: dict[tuple[int, ...], Any] = {}
    for offset, phase, shift in window.offsets():
        starts = [low - at for low, at in zip(reach, shift, strict=True)]
        limits = [start + count for start, count in zip(starts, counts, strict=True)]
        moved = lax.slice(padded, (0, *starts, 0), (g.shape[0], *limits, g.shape[-1]))
        sums[phase] = sums.get(phase, 0.0) + moved * kernel[offset]
    empty = jnp.zeros(shape, g.dtype)
    every = [sums.get(phase, empty) for phase in itertools.product(*map(range, window.strides))]
    return window.pad(_interleave(every, window.strides, window.padded), back=True)


def _interleave(phases: Sequence[Any], strides: tuple[int, ...], sizes: Sequence[int]) -> Any:
    """Put entries that were taken apart by strides back in order."""
    if len(phases) == 1:
        whole = phases[0]
    else:
        rank = len(strides)
        batch, *counts, channels = phases[0].shape
        apart = jnp.stack(phases).reshape(*strides, batch, *counts, channels)
        pairs = [axis for i in range(rank) for axis in (rank + 1 + i, i)]
        whole = apart.transpose(rank, *pairs, 2 * rank + 1).reshape(
            batch, *(n * stride for n, stride in zip(counts, strides, strict=True)), channels
        )
    return lax.slice(whole, (0,) * whole.ndim, (whole.shape[0], *sizes, whole.shape[-1]))


def _kernel_gradient(window: Window, x: Any, kernel: Any, g: Any) -> Any:
    wide = jnp.promote_types(g.dtype, jnp.float32)
    rows = [cut.astype(wide) * g for cut in window.cuts(window.pad(x))]
    sums = sum_each(rows, range(g.ndim - 1))
    return jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


_shifted_products.defvjp(_forward, _backward)
