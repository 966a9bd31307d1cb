"""Weight regularizers, which depend on no data and stay outside the clip."""

from typing import Any

import keras
import tensorflow as tf


def regularization_gradient(model: Any, params: list[Any]) -> tuple[Any, list[Any]]:
    """Return the weight regularizers' loss and its gradient.

    They depend on no data, so they stay outside the clip and cost no privacy.

    Args:
        model: A `DPModel` that is built.
        params: Values of its trainable variables.
    """
    values = [tf.convert_to_tensor(value) for value in params]
    mapping = list(zip(model.trainable_variables, values, strict=True))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        with keras.StatelessScope(state_mapping=mapping):
            losses = [tf.reduce_sum(loss) for loss in model.regularization_losses()]
        penalty = tf.add_n(losses) if losses else tf.zeros(())
    found = tape.gradient(penalty, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return penalty, [tf.cast(gradient, tf.float32) for gradient in found]
