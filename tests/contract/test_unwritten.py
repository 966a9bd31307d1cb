"""What the user passed stays as it is, also where Keras writes masks into sample weights."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.optimizers import DPSGD
from tests.kinds import L

SIZE, LENGTH, WORDS = 12, 5, 9


def data():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, WORDS, (SIZE, LENGTH)), rng.integers(0, WORDS, (SIZE, LENGTH))
    x[:, 3:] *= rng.integers(0, 2, (SIZE, 2))  # masked ends, of unequal lengths
    return x, y, rng.uniform(0.5, 2.0, (SIZE, LENGTH)).astype("float32")


def tagger(learning_rate=0.5, **settings):
    """A model over positions, those of word 0 masked."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    hidden = L.Embedding(WORDS, 3, mask_zero=True)(inputs)
    model = keras_dp.DPModel(inputs, L.Dense(WORDS)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = DPSGD(learning_rate, clip_norm=1.0, noise_multiplier=1.0, seed=1)
    model.compile(optimizer, loss, weighted_metrics=["accuracy"], **settings)
    return model


@pytest.mark.parametrize("method", ["fit", "train_on_batch", "evaluate", "test_on_batch"])
def test_arrays_of_the_user_are_as_they_were(method):
    x, y, weights = data()
    before = [array.copy() for array in (x, y, weights)]
    further = {"validation_data": (x, y, weights)} if method == "fit" else {}
    getattr(tagger(), method)(x, y, sample_weight=weights, **further)
    for actual, expected in zip((x, y, weights), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_inputs_are_as_they_were_after_predict():
    x = data()[0]
    before = x.copy()
    tagger().predict(x, verbose=0)
    np.testing.assert_array_equal(x, before)


def test_weighted_metrics_of_training_have_the_weights_of_the_user():
    x, y, weights = data()
    model = tagger(learning_rate=0.0, sampling="full_batch", microbatch_size=5)
    hits = keras.ops.convert_to_numpy(model(x)).argmax(-1) == y
    shown = model.fit(x, y, sample_weight=weights, verbose=0).history["accuracy"][0]
    np.testing.assert_allclose(shown, np.sum(weights * hits) / np.sum(weights), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_equal_views_of_an_example_have_equal_weights(count):
    """Keras scales the weights of positions that are not masked, once for every call."""
    _, y, weights = data()
    x = np.random.default_rng(1).normal(size=(SIZE, LENGTH, 2))
    x[::2, 3:] = 0
    inputs = keras.Input((LENGTH, 2))
    model = keras_dp.DPModel(inputs, L.Dense(WORDS)(L.Masking()(inputs)))
    model.set_weights([np.full(w.shape, 0.1) for w in model.get_weights()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    settings = {"augmentation": L.Identity(), "augmentations": count} if count > 1 else {}
    optimizer = DPSGD(0.0, clip_norm=1.0, noise_multiplier=1.0, seed=1)
    model.compile(optimizer, loss, sampling="full_batch", **settings)
    shown = model.fit(x, y, sample_weight=weights, verbose=0).history["loss"][0]
    masked = np.any(x != 0, -1) * weights
    share = LENGTH / np.any(x != 0, -1).sum(1)  # a mean over the positions that are there
    np.testing.assert_allclose(shown, np.log(WORDS) * np.mean(masked.mean(1) * share), rtol=1e-5)
