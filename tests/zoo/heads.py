"""Losses with targets that fit them, on vectors or at every position of a sequence."""

import keras
import numpy as np

from tests.zoo.drawing import to

LOSSES = (
    "mse",
    "sparse_logits",
    "binary_logits",
    "huber",
    "categorical_logits",
    "sparse_probabilities",
    "binary_probabilities",
    "categorical_smoothed",
)


def _regression(d, x, loss):
    x = d.layer("Dense", d.units())(x)
    return x, d.rng.normal(size=(d.size, *x.shape[1:])).astype("float32"), loss


def mse(d, x):
    return _regression(d, x, keras.losses.MeanSquaredError())


def huber(d, x):
    return _regression(d, x, keras.losses.Huber(delta=0.5))


def _classes(d, x, logits):
    classes = int(d.rng.integers(3, 6))
    x = d.layer("Dense", classes)(x)
    labels = d.rng.integers(0, classes, size=(d.size, *x.shape[1:-1])).astype("int32")
    return (x if logits else d.layer("Softmax")(x)), labels


def sparse_logits(d, x, logits=True):
    x, labels = _classes(d, x, logits)
    return x, labels, keras.losses.SparseCategoricalCrossentropy(from_logits=logits)


def sparse_probabilities(d, x):
    return sparse_logits(d, x, logits=False)


def categorical_logits(d, x, smoothing=0.0):
    x, labels = _classes(d, x, logits=True)
    targets = np.eye(x.shape[-1], dtype="float32")[labels]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    return x, targets, loss


def categorical_smoothed(d, x):
    return categorical_logits(d, x, smoothing=0.1)


def binary_logits(d, x, logits=True):
    x = d.layer("Dense", d.pick(1, 3), activation=None if logits else "sigmoid")(x)
    targets = d.rng.integers(0, 2, size=(d.size, *x.shape[1:])).astype("float32")
    return x, targets, keras.losses.BinaryCrossentropy(from_logits=logits)


def binary_probabilities(d, x):
    return binary_logits(d, x, logits=False)


def add_head(d, x, name):
    """Make `x` an output with a loss; a sequence or an image may keep its positions."""
    if x.ndim == 5 or d.maybe():
        x = to(d, x, "vector")
    d.say(f"loss {name}:")
    x, y, loss = globals()[name](d, x)
    d.y.append(y)
    d.losses.append(loss)
    return x
