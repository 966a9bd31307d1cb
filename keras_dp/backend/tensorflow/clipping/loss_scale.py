"""Float16 gradients: every example's loss multiplied with a scale that is its own.

float16 ends at 65,504 and loses precision below 6e-5, so the backward pass starts from the loss
times a scale, and norms and factors are divided by it, in float32, before anything is clipped.

Privacy:
    An example whose gradient overflows is tried again with a smaller scale of its own, by the same
    operations for all examples. What an example adds depends on the weights and on itself alone,
    and no update is skipped.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tensorflow as tf

from keras_dp.backend.tensorflow.clipping.trees import Packed
from keras_dp.clip_rules.factors import Clip
from keras_dp.types import ClippedSum, Tree

STEP = 2.0**8
"""What a scale is divided by when its example's gradient overflows. A power of two: exact."""

TRIES = 3
"""How often an example is tried; what overflows every time adds nothing, as NaN adds nothing."""

LossFunction = Callable[[Tree, Tree], tuple[Any, Tree]]
Compute = Callable[[LossFunction, Tree, Tree, Any, Clip], ClippedSum]


def with_loss_scale(compute: Compute, first: float, views: int = 1) -> Compute:
    """Make a clip method that scales every example's loss, and whose result is free of the scale.

    Args:
        compute: A clip method.
        first: The scale that every example is tried with first.
        views: How many rows of the batch each example has.
    """

    def clipped_sum(
        loss_fn: LossFunction, params: Tree, batch: Tree, mask: Any, clip: Clip
    ) -> ClippedSum:
        packed: list[Packed] = []

        def attempt(scales: Any) -> list[Any]:
            rows = {"example": batch, "scale": tf.repeat(scales, views)}
            own = tf.nest.map_structure(tf.identity, params)  # of the graph of the loop's body
            result = compute(_scaled(loss_fn), own, rows, mask, replace(clip, scales=scales))
            losses, aux = result.aux
            packed.append(Packed(result._replace(losses=losses, aux=aux)))
            return packed[-1].tensors

        def unsettled(scales: Any, again: Any, *_: Any) -> Any:
            del scales
            return tf.reduce_any(again)

        def turn(scales: Any, again: Any, *_: Any) -> list[Any]:
            scales = tf.where(again, scales / STEP, scales)
            tensors = attempt(scales)
            result = packed[0].unpacked(tensors)
            finite = tf.reduce_all(tf.math.is_finite(tf.reshape(result.losses, (-1, views))), 1)
            hopeful = (mask > 0) & finite & (scales > last)
            return [scales, hopeful & ~tf.math.is_finite(result.norms), *tensors]

        last = first / STEP ** (TRIES - 1)
        start = tf.fill(mask.shape, tf.constant(first, tf.float32))
        # The first try has the operations of all others: an example that is tried again beside
        # another that overflowed comes to the same result as if the other was not there.
        carry = turn(start * STEP, tf.ones(mask.shape, tf.bool))
        _, _, *tensors = tf.while_loop(unsettled, turn, carry)
        return packed[0].unpacked(tensors)

    return clipped_sum


def _scaled(loss_fn: LossFunction) -> LossFunction:
    def loss_and_rest(params: Tree, row: Tree) -> tuple[Any, Tree]:
        loss, aux = loss_fn(params, row["example"])
        return tf.cast(loss, tf.float32) * row["scale"], (loss, aux)

    return loss_and_rest
