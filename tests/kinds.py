"""Five kinds of Keras model, each as a plain and a private model with the same weights."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import keras_dp

L = keras.layers
SIZE = 24


@dataclass
class Case:
    """A model kind with data that fit it."""

    plain: Any
    private: Any
    x: Any
    y: Any
    loss: Any
    sample_weight: Any = None


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def images(rng):
    return rng.normal(size=(SIZE, 8, 8, 1)).astype("float32")


def labels(rng, classes=3):
    return rng.integers(0, classes, SIZE)


def functional_cnn(rng):
    def build(cls):
        inputs = keras.Input((8, 8, 1))
        hidden = L.Conv2D(4, 3, activation="tanh", kernel_regularizer="l2")(inputs)
        hidden = L.GroupNormalization(2)(hidden)
        outputs = L.Dense(3)(L.GlobalAveragePooling2D()(hidden))
        return cls(inputs, outputs)

    return Case(
        build(keras.Model), build(keras_dp.DPModel), images(rng), labels(rng), crossentropy()
    )


def sequential_mlp(rng):
    def build(cls):
        return cls([keras.Input((5,)), L.Dense(7, activation="tanh"), L.Dense(3)])

    x = rng.normal(size=(SIZE, 5)).astype("float32")
    weights = rng.uniform(0.5, 2, SIZE).astype("float32")
    return Case(
        build(keras.Sequential),
        build(keras_dp.DPSequential),
        x,
        labels(rng),
        crossentropy(),
        weights,
    )


def _subclass(base):
    @keras.saving.register_keras_serializable("tests", f"Sub{base.__name__}")
    class Sub(base):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = L.Dense(6, activation="tanh")
            self.second = L.Dense(2)

        def call(self, inputs):
            hidden = self.first(inputs)
            self.add_loss(0.1 * keras.ops.mean(keras.ops.square(hidden)))
            return self.second(hidden)

    return Sub


PlainSubclass = _subclass(keras.Model)
PrivateSubclass = _subclass(keras_dp.DPModel)


def subclassed_with_added_loss(rng):
    x = rng.normal(size=(SIZE, 5)).astype("float32")
    y = rng.normal(size=(SIZE, 2)).astype("float32")
    plain, private = PlainSubclass(), PrivateSubclass()
    plain(x)
    private(x)
    return Case(plain, private, x, y, "mse")


def dict_inputs_two_outputs(rng):
    def build(cls):
        a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
        hidden = L.Dense(6, activation="gelu")(L.Concatenate()([a, b]))
        outputs = {"kind": L.Dense(3, name="kind")(hidden), "size": L.Dense(1, name="size")(hidden)}
        return cls({"a": a, "b": b}, outputs)

    x = {
        "a": rng.normal(size=(SIZE, 4)).astype("float32"),
        "b": rng.normal(size=(SIZE, 3)).astype("float32"),
    }
    y = {"kind": labels(rng), "size": rng.normal(size=(SIZE, 1)).astype("float32")}
    loss = {"kind": crossentropy(), "size": "mse"}
    return Case(build(keras.Model), build(keras_dp.DPModel), x, y, loss)


def recurrent_with_embedding(rng):
    def build(cls):
        inputs = keras.Input((6,), dtype="int32")
        hidden = L.LSTM(5)(L.Embedding(11, 4, mask_zero=True)(inputs))
        return cls(inputs, L.Dense(1)(hidden))

    tokens = rng.integers(1, 11, (SIZE, 6))
    tokens[::3, 4:] = 0
    y = rng.integers(0, 2, (SIZE, 1)).astype("float32")
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return Case(build(keras.Model), build(keras_dp.DPModel), tokens, y, loss)


KINDS = {
    kind.__name__: kind
    for kind in (
        functional_cnn,
        sequential_mlp,
        subclassed_with_added_loss,
        dict_inputs_two_outputs,
        recurrent_with_embedding,
    )
}


def make(name, seed=0):
    """Build a kind with the same random weights in both models."""
    rng = np.random.default_rng(seed)
    case = KINDS[name](rng)
    weights = [
        rng.normal(scale=0.5, size=w.shape).astype(w.dtype) for w in case.plain.get_weights()
    ]
    case.plain.set_weights(weights)
    case.private.set_weights(weights)
    return case


def tiny(units=3, **compiling):
    """A compiled linear private model on four inputs, for tests of what surrounds the step."""
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, L.Dense(units)(inputs))
    defaults = {
        "optimizer": keras_dp.optimizers.DPSGD(0.1, clip_norm=1.0, noise_multiplier=1.0),
        "loss": "mse",
    }
    model.compile(**{**defaults, **compiling})
    return model


def tiny_data(size=100, units=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 4)).astype("float32"), rng.normal(size=(size, units)).astype(
        "float32"
    )
