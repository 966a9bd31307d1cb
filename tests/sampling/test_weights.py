"""Weights of classes and of several outputs are those of Keras."""

import keras
import numpy as np
import pytest

from keras_dp.sampling import ArraySource


@pytest.mark.parametrize(
    "y", [np.array([0, 1, 2, 1]), np.array([[0], [1], [2], [1]]), np.eye(3)[[0, 1, 2, 1]]]
)
def test_class_weight_gives_every_example_the_weight_of_its_class(y):
    source = ArraySource(np.zeros((4, 1)), y, class_weight={1: 3.0, 2: 0.5})
    np.testing.assert_array_equal(source.sample_weight, [1.0, 3.0, 0.5, 3.0])


def test_one_weight_array_serves_all_outputs():
    y = {"a": np.zeros(3), "b": np.zeros(3)}
    source = ArraySource(np.zeros(3), y, np.arange(3.0))
    assert set(source.sample_weight) == {"a", "b"}
    np.testing.assert_array_equal(source.sample_weight["b"], [0, 1, 2])


OUTPUTS = {"a": np.zeros(3), "b": np.zeros(3)}


@pytest.mark.parametrize("weight", [np.arange(3.0), np.arange(3.0)[:, None]])
def test_the_weights_of_outputs_have_the_structure_of_the_targets(weight):
    each = ArraySource(np.zeros(3), OUTPUTS, weight).sample_weight
    given = {"a": weight, "b": None}
    assert ArraySource(np.zeros(3), OUTPUTS, given).sample_weight["b"] is None
    for name in OUTPUTS:
        np.testing.assert_array_equal(each[name], weight)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({"a": np.ones(3)}, r"structure of `y`.*Received \{'a': \.\.\} for y"),
        ([np.ones(3), np.ones(3)], "structure of `y`"),
        (np.ones((3, 2)), r"one number for each example. Received shape \(3, 2\)"),
    ],
)
def test_weights_that_do_not_fit_several_outputs_are_refused_as_in_keras(weight, message):
    with pytest.raises(ValueError, match=message):
        ArraySource(np.zeros(3), OUTPUTS, weight)
    inputs = keras.Input((1,))
    dense = keras.layers.Dense(1)
    plain = keras.Model(inputs, {name: dense(inputs) for name in OUTPUTS})
    plain.compile("sgd", loss={name: "mse" for name in OUTPUTS})
    with pytest.raises(ValueError, match=r"You should provide one|one scalar score per sample"):
        plain.fit(np.zeros((3, 1)), OUTPUTS, sample_weight=weight, verbose=0)


def test_class_weight_needs_one_class_for_each_example():
    with pytest.raises(ValueError, match=r"one class for each example.*shape \(2, 3, 4\)"):
        ArraySource(np.zeros(2), np.zeros((2, 3, 4)), class_weight={0: 1.0})
