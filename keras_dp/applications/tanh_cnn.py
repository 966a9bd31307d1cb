"""The small convolutional network with tanh activations of Tramer and Boneh."""

from typing import Any

import keras

from keras_dp.model import DPModel


def TanhCNN(  # noqa: N802 - a constructor, named as Keras names its applications
    input_shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10, **kwargs: Any
) -> DPModel:
    """Make the small tanh CNN for grey images, 26,010 weights at the default sizes.

    Two convolutions and two dense layers, no normalisation. Bounded activations keep the gradients
    of all examples at similar norms, so that clipping loses little.

    Args:
        input_shape: Height, width and channels, default `(28, 28, 1)`.
        classes: Number of classes, default 10. The outputs are logits.
        **kwargs: `name` and `trainable`, as for `keras.Model`.

    Returns:
        A `DPModel`, not compiled.

    Privacy:
        Starts from random weights, which depend on no data.

    Example:
        >>> keras_dp.applications.TanhCNN().count_params()
        26010

    References:
        Tramer and Boneh 2021, Differentially Private Learning Needs Better Features (or Much More
        Data), table 11. Papernot et al. 2021, Tempered Sigmoid Activations for Deep Learning with
        Differential Privacy.
    """
    layers = keras.layers
    inputs = keras.Input(input_shape)
    x = layers.ZeroPadding2D(2)(inputs)
    x = layers.Conv2D(16, 8, strides=2, activation="tanh")(x)
    x = layers.MaxPooling2D(2, strides=1)(x)
    x = layers.Conv2D(32, 4, strides=2, activation="tanh")(x)
    x = layers.MaxPooling2D(2, strides=1)(x)
    x = layers.Dense(32, activation="tanh")(layers.Flatten()(x))
    return DPModel(inputs, layers.Dense(classes)(x), **{"name": "tanh_cnn", **kwargs})
