"""The reference method: every example's gradient in full, by `tf.vectorized_map`.

Slow and large, but short enough to be checked by eye: the oracle of every faster method.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_dp.backend.tensorflow.clipping.bookkeeping import vectorised
from keras_dp.backend.tensorflow.clipping.tracing import open_functions
from keras_dp.backend.tensorflow.clipping.trees import Packed
from keras_dp.clip_rules.factors import Clip
from keras_dp.types import ClippedSum, Tree


def clipped_sum(
    loss_fn: Callable[[Tree, Tree], tuple[Any, Tree]],
    params: Tree,
    batch: Tree,
    mask: Any,
    clip: Clip,
) -> ClippedSum:
    """Clip each example's gradient and sum, see `keras_dp.clipping.clipped_sum`."""
    weights, rows = tf.nest.flatten(params), Packed(batch)
    packed: list[Packed] = []

    def one(leaves: list[Any]) -> list[Any]:
        with open_functions():
            loss, aux = loss_fn(params, rows.unpacked(leaves))
        zero = tf.UnconnectedGradients.ZERO
        gradients = tf.gradients(loss, weights, unconnected_gradients=zero)
        packed.append(Packed(aux))
        grads = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
        return [loss, *grads, *packed[0].tensors]

    losses, *others = vectorised(one, rows.tensors)
    grads, aux = others[: len(weights)], others[len(weights) :]
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
