"""What the tests of the traps share."""

import keras
import numpy as np

import keras_dp
from keras_dp.optimizers import DPSGD

L = keras.layers
DELTA = 1e-3


def private(outputs=2, noise_multiplier=0.0, clip_norm=1.0, seed=None, layers=None, **compiling):
    """A compiled private model of four inputs whose step is the released gradient itself."""
    inputs = keras.Input((4,))
    hidden = inputs
    for layer in layers or [L.Dense(outputs)]:
        hidden = layer(hidden)
    model = keras_dp.DPModel(inputs, hidden)
    optimizer = DPSGD(1.0, clip_norm=clip_norm, noise_multiplier=noise_multiplier, seed=seed)
    model.compile(optimizer, **{"loss": "mse", **compiling})
    return model


def data(size=40, outputs=2, scale=1.0):
    rng = np.random.default_rng(0)
    x = scale * rng.normal(size=(size, 4)).astype("float32")
    return x, scale * rng.normal(size=(size, outputs)).astype("float32")


def released(model, x, y=None, **fitting):
    """Return the divided gradient that one full-batch update releases, as one vector."""
    before = flat(model)
    model.fit(x, y, batch_size=len(x), steps_per_epoch=1, verbose=0, **fitting)
    return before - flat(model)


def flat(model):
    weights = [np.asarray(variable).ravel() for variable in model.trainable_variables]
    return np.concatenate(weights).astype(np.float64)


def losses_of(model, x, y):
    return np.mean((model.predict(x, verbose=0) - y) ** 2, axis=-1)
