"""Products with a weight: sums of outer products of what goes in and the cotangents."""

import math
from typing import Any

import tensorflow as tf

from keras_dp.backend.tensorflow.clipping.contributions import Contribution, Factored, Written
from keras_dp.backend.tensorflow.clipping.flow import Site
from keras_dp.backend.tensorflow.clipping.rules.base import Rule, rule_for


@rule_for("MatMul")
def _matmul(site: Site) -> Rule:
    """`y = op(a) op(b)`, where either may be the weight, and transposed."""
    transposes = site.op.get_attr("transpose_a"), site.op.get_attr("transpose_b")
    return _product(site, *transposes)


@rule_for("BatchMatMulV2", "BatchMatMulV3", "BatchMatMul")
def _batch_matmul(site: Site) -> Rule | None:
    """As `MatMul`, with batch axes of the data's alone."""
    leading = site.op.inputs[site.index].shape[:-2]
    if math.prod(leading) != 1:
        return None
    return _product(site, site.op.get_attr("adj_x"), site.op.get_attr("adj_y"))


def _product(site: Site, transpose_a: bool, transpose_b: bool) -> Rule:
    """With `y = x w` the gradient is `x' g`, with `y = w x` it is `g x'`."""
    first = site.index == 0
    shape = tuple(site.weight.shape)

    def contribution(cotangents: Any, x: Any) -> Factored:
        if (transpose_b if first else transpose_a) != first:
            x = tf.linalg.matrix_transpose(x)
        if first:
            cotangents = tf.linalg.matrix_transpose(cotangents)
        x, cotangents = (
            tf.reshape(each, (each.shape[0], -1, each.shape[-1])) for each in (x, cotangents)
        )
        rows, columns = (cotangents, x) if first else (x, cotangents)
        if transpose_a if first else transpose_b:
            rows, columns = columns, rows
        return Factored(rows, columns, (int(rows.shape[-1]), int(columns.shape[-1])), shape)

    return Rule("outer", (site.op.inputs[1 - site.index],), contribution)


@rule_for("Einsum", "XlaEinsum")
def _einsum(site: Site) -> Rule | None:
    """Outer products where the weight's axes are contracted or kept; else in full."""
    terms, out = site.op.get_attr("equation").decode().split("->")
    labels = terms.split(",")
    if len(labels) != 2 or "." in terms + out or any(len(set(t)) < len(t) for t in (*labels, out)):
        return None
    w, x = labels[site.index], labels[1 - site.index]
    if not (set(x) <= set(w + out) and set(w) <= set(x + out)):
        return None
    contracted = "".join(c for c in w if c in x and c not in out)
    kept = "".join(c for c in w if c not in x)
    free = "".join(c for c in x if c not in w)
    shape = tuple(site.weight.shape)
    sizes = dict(zip(w, shape, strict=True))
    size = (math.prod(sizes[c] for c in contracted), math.prod(sizes[c] for c in kept))
    rows_first = w == contracted + kept

    def contribution(cotangents: Any, data: Any) -> Contribution:
        if w not in (contracted + kept, kept + contracted):
            return Written(tf.einsum(f"Z{x},Z{out}->Z{w}", data, cotangents))
        rows = _ordered(data, x, free + contracted, size[0])
        columns = _ordered(cotangents, out, free + kept, size[1])
        if rows_first:
            return Factored(rows, columns, size, shape)
        return Factored(columns, rows, (size[1], size[0]), shape)

    return Rule("outer", (site.op.inputs[1 - site.index],), contribution)


def _ordered(array: Any, labels: str, order: str, size: int) -> Any:
    """Put the axes of an array in order, all but the last ones of `size` together as positions."""
    if labels != order:
        array = tf.transpose(array, (0, *(1 + labels.index(c) for c in order)))
    return tf.reshape(array, (array.shape[0], -1, size))


@rule_for("GatherV2")
def _embedding(site: Site) -> Rule | None:
    """Rows of a table: outer products with one-hot rows, which are never made."""
    axis = tf.get_static_value(site.op.inputs[2])
    if site.index != 0 or axis != 0 or site.op.get_attr("batch_dims") != 0:
        return None
    shape = tuple(site.weight.shape)
    width = math.prod(shape[1:])

    def contribution(cotangents: Any, places: Any) -> Factored:
        places = tf.reshape(places, (places.shape[0], -1))
        columns = tf.reshape(cotangents, (*places.shape, width))
        return Factored(places, columns, (shape[0], width), shape)

    return Rule("embedding", (site.op.inputs[1],), contribution)
