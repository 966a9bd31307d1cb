"""`tf.data` is refused for random draws and taken as a stream; tensors are arrays."""

import numpy as np
import pytest
import tensorflow as tf

import keras_dp
from keras_dp import sampling
from tests.trained import BATCH, BATCHES, SIZE, X, Y, assert_same_weights, model, trained

DATA = tf.data.Dataset.from_tensor_slices((X, Y))
BATCHED = DATA.batch(BATCH)


def test_tensors_train_as_the_equal_arrays():
    assert_same_weights(trained(tf.constant(X), tf.constant(Y)), trained(X, Y))


@pytest.mark.parametrize("data", [DATA, BATCHED, BATCHED.shuffle(9).prefetch(2), BATCHED.repeat()])
def test_tf_data_are_refused_with_what_to_pass_instead(data):
    made = model()
    message = r"any position.*NumPy arrays, a `tfds\.data_source`, or a Grain.*Stream\("
    with pytest.raises(keras_dp.NotPrivateError, match=message):
        made.fit(data)
    assert made.ledger.updates == 0


@pytest.mark.parametrize(
    ("data", "stated"),
    [
        (BATCHED, {}),
        (BATCHED.prefetch(2), {}),
        (BATCHED.repeat(), {"updates_per_epoch": len(BATCHES)}),
    ],
)
def test_a_stream_trains_as_the_batches_that_it_gives(data, stated):
    made = model(sampling.Stream(dataset_size=SIZE, **stated))
    made.fit(data, epochs=2, verbose=0)
    expected = model()
    for x, y in BATCHES * 2:
        expected.train_on_batch(x, y)
    assert_same_weights(made, expected)


def test_examples_are_shuffled_anew_in_every_pass_and_each_comes_once():
    data = DATA.shuffle(SIZE, reshuffle_each_iteration=True).batch(BATCH, drop_remainder=True)
    source = sampling.StreamSource(data, sampling.Stream(dataset_size=SIZE))
    passes = [
        np.concatenate([source.next_batch()[0] for _ in range(len(BATCHES))]) for _ in range(2)
    ]
    for seen in passes:
        np.testing.assert_array_equal(np.sort(seen, 0), np.sort(X, 0))
    assert (passes[0] != passes[1]).any()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (BATCHED.repeat(), "in how many updates"),
        (BATCHED.filter(lambda x, y: True), "in how many updates"),
        (DATA, r"a row for each example.*\(4,\), \(\) in batch 0"),
        (tf.data.Dataset.from_tensor_slices({"x": X, "y": Y}).batch(8), r"`\.map\(\.\.\.\)`"),
    ],
)
def test_what_a_stream_does_not_tell_must_be_stated(data, message):
    made = model(sampling.Stream(dataset_size=SIZE))
    with pytest.raises(ValueError, match=message):
        made.fit(data, verbose=0)
    assert made.ledger.updates == 0


def test_a_stream_that_repeats_itself_is_noticed():
    made = model(sampling.Stream(dataset_size=SIZE, updates_per_epoch=7))
    with pytest.raises(ValueError, match=r"at least 48 in 6 batches.*dataset_size=40"):
        made.fit(BATCHED.repeat(), verbose=0)
