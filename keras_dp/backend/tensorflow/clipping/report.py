"""What the engine will do with a loss, found without computing anything."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from keras_dp.backend.report import Report, Row
from keras_dp.backend.tensorflow.clipping.bookkeeping import GENERIC, Traced, Use
from keras_dp.backend.tensorflow.clipping.contributions import Contribution, Factored
from keras_dp.backend.tensorflow.clipping.groups import (
    FactoredGradients,
    Gradients,
    gradients_of,
    make_groups,
    meets_directly,
)

LIVE_PART = 1.0
"""Part of all intermediate values that TensorFlow keeps at one time, forward and backward."""

ONE_BY_ONE = "one example after another"
"""The rule where loops collect what they compute, which TensorFlow does not vectorise."""

NUMBER = 4
"""Bytes of a float32."""


def report(traced: Traced, names: Sequence[str], views: int = 1) -> Report:
    """Return where the weights of a loss meet data and what their norms cost, for one example.

    Args:
        traced: The loss.
        names: A name for each weight.
        views: How many views an example has.
    """
    flow, weights, met = traced.flow, traced.weights, traced.met
    rows: dict[int, Row] = {}
    with traced.loss.graph.as_default():
        zeros = [[tf.zeros((views, *t.shape), t.dtype) for t in use.reads] for use in traced.uses]
        contributions = [
            use.contribution(own).joined(views) for use, own in zip(traced.uses, zeros, strict=True)
        ]
        for group in make_groups(flow, weights, met):
            direct = meets_directly(group, flow, weights, met, contributions)
            gradients = gradients_of(group, flow, weights, met, contributions, 1)
            paths = tuple(names[i] for i in group.members)
            for use in group.uses:
                own = contributions[use]
                rows[use] = _row(paths, traced.uses[use], own, gradients, direct)
    named = {name for row in rows.values() for name in row.weights}
    table = [rows[use] for use in sorted(rows)]
    table += [
        Row((name,), tuple(weight.shape), "-", *_unused(weight, flow.has_lists))
        for name, weight in zip(names, weights, strict=True)
        if name not in named
    ]
    activations = int(LIVE_PART * views * _intermediates(flow.from_data))
    return Report(tuple(table), activations, 0)


def _unused(weight: Any, looped: bool) -> tuple[str, int, int]:
    """Return rule, operations and bytes of a weight that met no data in the graph."""
    size = math.prod(weight.shape)
    return (ONE_BY_ONE, 2 * size, NUMBER * size) if looped else ("no effect on the loss", 0, 0)


def _row(
    paths: tuple[str, ...], use: Use, own: Contribution, gradients: Gradients, direct: bool
) -> Row:
    weight = use.site.weight
    shape = tuple(weight.shape)
    name = GENERIC if use.rule is None else use.rule.name
    by_products = isinstance(gradients, FactoredGradients)
    way = "product" if by_products else "written out" if direct else "pulled back"
    flops, numbers = _cost(own, by_products, math.prod(shape))
    rule = f"{name}, {way}" if name else way
    return Row(paths, shape, use.site.op.type, rule, flops, NUMBER * numbers)


def _cost(own: Contribution, by_products: bool, size: int) -> tuple[int, int]:
    """Return the operations for an example's norm, and how many numbers are kept for it."""
    if not isinstance(own, Factored):
        return 2 * size, size
    positions, width = own.positions, sum(own.size)
    if not by_products:
        return 2 * size * (positions + 1), size
    held = sum(math.prod(each.shape[1:]) for each in (own.rows, own.columns))
    return 2 * (width if positions == 1 else positions**2 * width), held


def _intermediates(tensors: Iterable[Any]) -> int:
    known = (t for t in tensors if t.shape.is_fully_defined() and t.dtype.is_floating)
    return sum(math.prod(t.shape) * t.dtype.size for t in known)
