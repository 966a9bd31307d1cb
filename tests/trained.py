"""Models trained on data of one kind or another, to compare what comes out."""

import keras
import numpy as np

import keras_dp
from keras_dp.optimizers import DPSGD
from tests.kinds import crossentropy

SIZE = 40
BATCH = 8
X = np.random.default_rng(0).normal(size=(SIZE, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, SIZE)
WEIGHTS = np.random.default_rng(2).uniform(0.2, 3, SIZE).astype("float32")
BATCHES = [(X[i : i + BATCH], Y[i : i + BATCH]) for i in range(0, SIZE, BATCH)]


def compiled(made, sampling="poisson", seed=7, **compiling):
    """Compile a private model so that its noise and its draws follow from the seed."""
    made.compile(
        **{
            "optimizer": DPSGD(0.5, clip_norm=1.0, noise_multiplier=0.5, seed=seed),
            "loss": crossentropy(),
            "sampling": sampling,
            "microbatch_size": 3,
            **compiling,
        }
    )
    return made


def model(sampling="poisson", **compiling):
    """A linear classifier with known weights."""
    inputs = keras.Input((4,))
    made = compiled(keras_dp.DPModel(inputs, keras.layers.Dense(3)(inputs)), sampling, **compiling)
    made.set_weights([np.ones((4, 3)), np.zeros(3)])
    return made


def trained(*data, sampling="poisson", batch_size=BATCH, epochs=2, **fitting):
    """Return the seeded model after `fit` on these data."""
    made = model(sampling)
    made.fit(*data, batch_size=batch_size, epochs=epochs, verbose=0, **fitting)
    return made


def assert_same_weights(ours, theirs, atol=1e-6):
    """Check that two models have equal weights, which are not those that both began with."""
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)
    assert ours.ledger.updates == theirs.ledger.updates > 0
