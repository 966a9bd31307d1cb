"""Noise for tensors of TensorFlow, drawn on the host."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_dp.backend import host_noise
from keras_dp.types import ByDevice


def add_noise(
    kind: str, sums: list[Any], key: Any, stddevs: list[Any], by_device: ByDevice | None
) -> list[Any]:
    """Add noise of one kind to the sums; see `keras_dp.noise.add_noise`.

    Inside a compiled function it is a call to the host that is made in every run.

    Args:
        kind: A name in `NOISE_KEY_BYTES`.
        sums: List of tensors.
        key: uint32 array with as many bytes as `NOISE_KEY_BYTES` says.
        stddevs: List of floats, one for each of the sums.
        by_device: `None`: there is one device.
    """
    del by_device
    if not sums:
        return []
    totals = [tf.cast(total, tf.float32) for total in sums]
    scales = tf.stack([tf.cast(stddev, tf.float32) for stddev in stddevs])

    def drawn(key: Any, scales: Any, *totals: Any) -> list[Any]:
        return host_noise.noisy(kind, list(totals), key, list(np.atleast_1d(scales)))

    types = [tf.float32] * len(totals)
    noisy = tf.numpy_function(drawn, [key, scales, *totals], types, stateful=True)
    pairs = zip(tf.nest.flatten(noisy), totals, strict=True)  # of one, it makes no list
    return [tf.ensure_shape(each, total.shape) for each, total in pairs]
