"""The reference method: every example's gradient in full, by `tf.vectorized_map`.

Slow and large, but short enough to be checked by eye: the oracle of every faster method.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_dp.backend.tensorflow.clipping.flow import Flow
from keras_dp.backend.tensorflow.clipping.tracing import open_functions, vectorised
from keras_dp.backend.tensorflow.clipping.trees import Packed
from keras_dp.clip_rules.factors import Clip
from keras_dp.types import ClippedSum, Tree


def clipped_sum(
    loss_fn: Callable[[Tree, Tree], tuple[Any, Tree]],
    params: Tree,
    batch: Tree,
    mask: Any,
    clip: Clip,
    views: int = 1,
) -> ClippedSum:
    """Clip each example's gradient and sum, see `keras_dp.clipping.clipped_sum`.

    Where loops collect their results in lists, which TensorFlow does not vectorise, one example
    comes after another.
    """
    weights, rows = tf.nest.flatten(params), Packed(batch)
    packed: list[Packed] = []
    lists: list[bool] = []
    kinds: list[Any] = []

    def one(leaves: list[Any]) -> list[Any]:
        own = [tf.identity(weight) for weight in weights]
        with open_functions():
            loss, aux = loss_fn(tf.nest.pack_sequence_as(params, own), rows.unpacked(leaves))
        lists.append(Flow([loss], own, leaves).has_lists)
        packed.append(Packed(aux))
        if lists == [True]:
            sums = [tf.TensorSpec(weight.shape, tf.float32) for weight in own]
            rest = [tf.TensorSpec(t.shape, t.dtype) for t in packed[0].tensors]
            kinds.extend([tf.TensorSpec((), loss.dtype), *sums, *rest])
            return [tf.constant(0.0)]
        zero = tf.UnconnectedGradients.ZERO
        gradients = tf.gradients(loss, own, unconnected_gradients=zero)
        grads = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
        return [loss, *grads, *packed[0].tensors]

    results = vectorised(one, rows.tensors)
    if kinds:
        results = tf.map_fn(one, rows.tensors, fn_output_signature=kinds)
    losses, *others = results
    grads, aux = others[: len(weights)], others[len(weights) :]
    if views > 1:
        grads = [tf.reduce_mean(tf.reshape(g, (-1, views, *g.shape[1:])), 1) for g in grads]
    squares = [tf.reduce_sum(g * g, list(range(1, g.shape.rank))) for g in grads]
    norms, factors = clip.apply(squares, mask)
    sums = [_weighted_sum(factor, grad) for factor, grad in zip(factors, grads, strict=True)]
    return ClippedSum(
        tf.nest.pack_sequence_as(params, sums), norms, losses, packed[0].unpacked(aux)
    )


def _weighted_sum(factors: Any, grads: Any) -> Any:
    """Contract the batch axis; a factor of 0 removes an example even when its entries are NaN."""
    used = tf.reshape(factors, (-1, *[1] * (grads.shape.rank - 1))) > 0
    return tf.tensordot(factors, tf.where(used, grads, 0.0), 1)
