"""`evaluate` and `predict` take what `fit` takes."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import sampling
from tests.standins import Batches, DataLoader, DatasetV2, Examples, Task, sentences, tokenize
from tests.trained import X, Y, compiled, model

TEXTS, LABELS = sentences(21)
TOKENS = tokenize(TEXTS)
PAIRS = list(zip(TEXTS, LABELS, strict=True))
BATCHES = [(np.array(TEXTS[i : i + 6], object), LABELS[i : i + 6]) for i in range(0, 21, 6)]


@pytest.fixture(scope="module")
def private():
    """A task's private model, and the task on tokens as the oracle."""
    keras.utils.set_random_seed(0)
    task = Task()
    plain = keras.Model(task.inputs, task.outputs[0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile("sgd", loss=loss, metrics=["accuracy"])
    return compiled(keras_dp.make_private(task), metrics=["accuracy"]), plain


def grain_batches():
    import grain

    return grain.MapDataset.source(PAIRS).batch(6)


@pytest.mark.parametrize(
    "data",
    [
        (TEXTS, LABELS),
        (np.array(TEXTS), LABELS.tolist()),
        (sampling.RandomAccess(PAIRS),),
    ],
    ids=["list", "array", "examples"],
)
def test_raw_data_are_evaluated_as_their_tokens(private, data):
    ours, plain = private
    expected = plain.evaluate(TOKENS, LABELS, verbose=0)
    np.testing.assert_allclose(ours.evaluate(*data, verbose=0), expected, rtol=1e-5)


def test_a_tf_data_set_is_mapped_as_a_task_maps_it():
    mapped, y, weight = sampling.evaluation_data(
        DatasetV2(BATCHES), batch_size=None, preprocess=tokenize
    )
    assert (y, weight) == (None, None)
    for start, (x, labels) in zip(range(0, 21, 6), mapped, strict=True):
        np.testing.assert_array_equal(x["token_ids"], TOKENS["token_ids"][start : start + 6])
        np.testing.assert_array_equal(labels, LABELS[start : start + 6])


def test_a_grain_data_set_of_batches_is_preprocessed_batch_by_batch(private):
    ours, plain = private
    expected = plain.evaluate(TOKENS, LABELS, verbose=0)
    np.testing.assert_allclose(ours.evaluate(grain_batches(), verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [None, 4, 100])
def test_predictions_for_texts_are_those_for_their_tokens_in_order(private, size):
    ours, plain = private
    expected = plain.predict(TOKENS, verbose=0)
    np.testing.assert_allclose(ours.predict(TEXTS, size, verbose=0), expected, atol=1e-6)
    np.testing.assert_allclose(ours.predict_on_batch(TEXTS), expected, atol=1e-6)
    weights = np.linspace(0, 2, 21)
    np.testing.assert_allclose(
        ours.test_on_batch(TEXTS, LABELS, weights),
        plain.test_on_batch(TOKENS, LABELS, weights),
        rtol=1e-5,
    )


def test_raw_data_that_cannot_be_mapped_are_refused(private):
    with pytest.raises(ValueError, match=r"Raw data to evaluate.*Received: DataLoader"):
        private[0].evaluate(DataLoader(Examples(X, Y), 8))


def test_a_model_without_preprocessing_evaluates_as_keras_does_and_examples_besides():
    ours = model(metrics=["accuracy"])
    expected = ours.evaluate(X, Y, verbose=0)
    for data in (
        Examples(X, Y),
        Batches(X, Y, batch_size=7),
        sampling.RandomAccess(list(zip(X, Y, strict=True))),
    ):
        np.testing.assert_allclose(ours.evaluate(data, verbose=0), expected, rtol=1e-5)
    np.testing.assert_array_equal(ours.predict(Examples(X), verbose=0), ours.predict(X, verbose=0))
    np.testing.assert_array_equal(ours.predict_on_batch(X[:3]), ours.predict(X[:3], verbose=0))
    assert ours.test_on_batch(X, Y)[0] == pytest.approx(expected[0], rel=1e-5)
