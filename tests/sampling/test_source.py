"""Data that can be read at any position, and what is refused."""

import jax.numpy as jnp
import keras
import numpy as np
import pytest

from keras_dp.errors import NotPrivateError
from keras_dp.sampling import ArraySource


def test_nested_arrays_are_read_by_position_in_keras_precision():
    x = {"a": np.arange(6.0), "b": [jnp.arange(12).reshape(6, 2)]}
    source = ArraySource(x, np.arange(6))
    taken_x, taken_y, weight = source.take(np.array([4, 0]))
    np.testing.assert_array_equal(taken_x["a"], [4, 0])
    np.testing.assert_array_equal(taken_x["b"][0], [[8, 9], [0, 1]])
    np.testing.assert_array_equal(taken_y, [4, 0])
    assert weight is None
    assert taken_x["a"].dtype == np.float32
    assert taken_y.dtype.kind == "i"
    assert len(source) == 6


def test_memory_maps_stay_on_disk(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(20.0).reshape(10, 2))
    source = ArraySource(np.load(path, mmap_mode="r"))
    assert isinstance(source.x, np.memmap)
    np.testing.assert_array_equal(source.take(np.array([3]))[0], [[6, 7]])


def test_validation_split_holds_out_the_end_as_keras_does():
    source, held = ArraySource(np.arange(10), np.arange(10) * 2).split(0.3)
    assert source.size == 7
    np.testing.assert_array_equal(held[0], [7, 8, 9])
    np.testing.assert_array_equal(held[1], [14, 16, 18])
    with pytest.raises(ValueError, match=r"examples on both sides of 10.*0.99"):
        ArraySource(np.arange(10)).split(0.99)


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


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return np.zeros((2, 1)), np.zeros(2)


@pytest.mark.parametrize("data", [(row for row in range(3)), Batches(), object()])
def test_data_without_positions_are_refused_with_the_remedy(data):
    with pytest.raises(NotPrivateError, match=r"read at any position.*NumPy arrays, memory maps"):
        ArraySource(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.zeros((0, 2))}, "at least one example"),
        ({"x": None}, "at least one example"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, r"same number of examples.*x: \[3\], y: \[4\]"),
        ({"x": 3.0}, "`x` must be an array of examples. Received: 3.0"),
        ({"x": np.array("a")}, r"one row for each example. Received shape \(\)"),
        ({"x": np.array([None, 1])}, "numeric.*dtype object"),
        (
            {"x": np.zeros(2), "y": np.zeros(2), "sample_weight": np.ones(2), "class_weight": {}},
            "not both",
        ),
        ({"x": np.zeros(2), "class_weight": {0: 1.0}}, "one output and its targets"),
        (
            {"x": np.zeros(2), "y": {"a": np.zeros(2)}, "class_weight": {0: 1.0}},
            "one output and its targets",
        ),
    ],
)
def test_bad_data_are_refused_with_what_came(arguments, message):
    with pytest.raises(ValueError, match=message):
        ArraySource(**arguments)
