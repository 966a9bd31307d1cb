"""Biases and scales: the gradient in full, summed over the axes they are spread along."""

from typing import Any

import tensorflow as tf

from keras_dp.backend.tensorflow.clipping.contributions import Written
from keras_dp.backend.tensorflow.clipping.flow import Site
from keras_dp.backend.tensorflow.clipping.rules.base import Rule, rule_for


@rule_for("AddV2", "Add", "Sub", "BiasAdd")
def _bias(site: Site) -> Rule:
    """`y = x + w`: the cotangent itself."""
    shape = _aligned(site)
    sign = -1.0 if site.op.type == "Sub" and site.index == 1 else 1.0

    def contribution(cotangents: Any) -> Written:
        return Written(_shrunk(sign * cotangents, shape, site.weight.shape))

    return Rule("", (), contribution)


@rule_for("Mul")
def _scale(site: Site) -> Rule:
    """`y = x w`: the cotangent times `x`."""
    shape = _aligned(site)

    def contribution(cotangents: Any, x: Any) -> Written:
        x = tf.reshape(x, (x.shape[0], *[1] * (cotangents.shape.rank - x.shape.rank), *x.shape[1:]))
        return Written(_shrunk(cotangents * x, shape, site.weight.shape))

    return Rule("", (site.op.inputs[1 - site.index],), contribution)


def _aligned(site: Site) -> tuple[int, ...]:
    """Return the weight's shape with as many axes as the output."""
    shape, rank = tuple(site.weight.shape), site.op.outputs[0].shape.rank
    if site.op.type == "BiasAdd" and site.op.get_attr("data_format") == b"NCHW":
        return (1, *shape, *[1] * (rank - 2))
    return (*[1] * (rank - len(shape)), *shape)


def _shrunk(gradients: Any, aligned: tuple[int, ...], shape: Any) -> Any:
    """Sum over the axes along which a weight of this shape is spread."""
    axes = [i + 1 for i, n in enumerate(aligned) if n == 1]
    return tf.reshape(tf.reduce_sum(gradients, axes), (-1, *shape))
