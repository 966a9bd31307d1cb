"""How a value that a site reads is made from one weight, where that keeps norms."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from keras_dp.backend.jax.clipping.jaxpr import compat
from keras_dp.backend.jax.clipping.jaxpr.compat import primitives
from keras_dp.backend.jax.clipping.jaxpr.program import Equation, Value

Region = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class View:
    """A weight seen in another layout, or a block of it: a gradient keeps its norm on the way back.

    Attributes:
        weight: The program input that is the weight.
        region: Start and end of the block on each axis of the weight.
        axes: For each axis of the value the axis of the weight it runs along, `None` for an axis of
            size one; `None` altogether where axes were merged, split or reversed.
    """

    weight: Value
    region: Region
    axes: tuple[int | None, ...] | None

    def disjoint(self, other: "View") -> bool:
        """Whether two views of one weight have no entry in common."""
        return any(
            a[1] <= b[0] or b[1] <= a[0] for a, b in zip(self.region, other.region, strict=True)
        )


def find_views(weights: Iterable[Value], equations: Iterable[Equation]) -> dict[Value, View]:
    """Return the views among the values that are computed from weights."""
    views = {
        weight: View(weight, tuple((0, n) for n in weight.shape), tuple(range(len(weight.shape))))
        for weight in weights
    }
    for equation in equations:
        step = _STEPS.get(equation.primitive)
        source = equation.inputs[0] if equation.inputs else None
        if step is not None and isinstance(source, Value) and source in views:
            if equation.reads != (source,):
                continue
            views.update(step(equation, views[source], source))
    return views


Found = dict[Value, View]


def _same(equation: Equation, view: View, source: Value) -> Found:
    del source
    kept = jnp.issubdtype(equation.outputs[0].dtype, jnp.floating)
    return {equation.outputs[0]: view} if kept else {}


def _transpose(equation: Equation, view: View, source: Value) -> Found:
    del source
    order = equation.params["permutation"]
    axes = None if view.axes is None else tuple(view.axes[i] for i in order)
    return {equation.outputs[0]: replace(view, axes=axes)}


def _reverse(equation: Equation, view: View, source: Value) -> Found:
    del source
    return {equation.outputs[0]: replace(view, axes=None)}


def _reshape(equation: Equation, view: View, source: Value) -> Found:
    """Follow the axes where only axes of size one come and go."""
    target = equation.outputs[0]
    if view.axes is None or _long(source.shape) != _long(target.shape):
        return {target: replace(view, axes=None)}
    kept = iter([axis for axis, n in zip(view.axes, source.shape, strict=True) if n != 1])
    axes = tuple(None if n == 1 else next(kept) for n in target.shape)
    return {target: replace(view, axes=axes)}


def _broadcast(equation: Equation, view: View, source: Value) -> Found:
    """Take a broadcast that only adds axes of size one."""
    same_size = _long(source.shape) == _long(equation.outputs[0].shape)
    return _reshape(equation, view, source) if same_size else {}


def _slice(equation: Equation, view: View, source: Value) -> Found:
    strides = equation.params["strides"]
    if strides is not None and any(n != 1 for n in strides):
        return {}
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    return _block(equation.outputs[0], view, source, tuple(zip(starts, limits, strict=True)))


def _split(equation: Equation, view: View, source: Value) -> Found:
    axis, found, start = equation.params["axis"], Found(), 0
    if len(equation.outputs) != len(equation.params["sizes"]):
        return found  # some parts are never used
    for size, output in zip(equation.params["sizes"], equation.outputs, strict=True):
        block = [(0, n) for n in source.shape]
        block[axis] = (start, start + int(size))
        start += int(size)
        found.update(_block(output, view, source, tuple(block)))
    return found


def _block(target: Value, view: View, source: Value, block: Region) -> Found:
    region = list(view.region)
    for position, (start, end) in enumerate(block):
        if (start, end) == (0, source.shape[position]):
            continue
        axis = None if view.axes is None else view.axes[position]
        if axis is None:
            return {}
        first = region[axis][0]
        region[axis] = (first + start, first + end)
    return {target: replace(view, region=tuple(region))}


def _long(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]


_STEPS: dict[Any, Any] = {
    primitives.convert_element_type_p: _same,
    primitives.copy_p: _same,
    primitives.transpose_p: _transpose,
    primitives.rev_p: _reverse,
    primitives.reshape_p: _reshape,
    primitives.squeeze_p: _reshape,
    primitives.broadcast_in_dim_p: _broadcast,
    primitives.slice_p: _slice,
    compat.split_p: _split,
}
