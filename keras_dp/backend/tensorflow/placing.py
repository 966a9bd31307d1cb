"""One device: strategies that copy variables to several are refused."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_dp.backend.one_device import OneDevice, check_undistributed


class TensorFlowDevice(OneDevice):
    """The device that TensorFlow chooses; it moves what lies elsewhere by itself."""

    def misplaced(self, variables: Sequence[Any]) -> list[str]:
        """Refuse variables of a `tf.distribute.Strategy`; all others are where they belong.

        Raises:
            ValueError: naming a variable.
        """
        copied = [
            v.path for v in variables if isinstance(v._value, tf.distribute.DistributedValues)
        ]
        if copied:
            raise ValueError(_refusal(f"a model with variables of one, such as {copied[0]!r}"))
        return []


def placement() -> TensorFlowDevice:
    """Return the placement on the one device.

    Raises:
        ValueError: under a `keras.distribution` or a `tf.distribute.Strategy`.
    """
    check_undistributed()
    if tf.distribute.has_strategy():
        raise ValueError(_refusal(type(tf.distribute.get_strategy()).__name__))
    return TensorFlowDevice()


def _refusal(received: str) -> str:
    return (
        "Private training on Keras' tensorflow backend runs on one device, without a "
        f"`tf.distribute.Strategy`. Received: {received}. Make, compile and train the model "
        "outside of `strategy.scope()`, or train on several devices with KERAS_BACKEND=jax."
    )
