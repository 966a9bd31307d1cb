"""Arrays are read by position; what is no array is refused."""

import jax.numpy as jnp
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


@pytest.mark.parametrize("data", [object(), {"a": np.zeros(3), "b": (row for row in range(3))}])
def test_data_without_positions_are_refused_with_the_remedy(data):
    with pytest.raises(NotPrivateError, match=r"read at any position.*NumPy arrays, memory maps"):
        ArraySource(data)


def test_positions_are_read_in_any_order_several_times_or_not_at_all():
    source = ArraySource({"a": np.arange(5.0)}, np.arange(10).reshape(5, 2))
    x, y, _ = source.take(np.array([3, 0, 3]))
    np.testing.assert_array_equal(x["a"], [3, 0, 3])
    np.testing.assert_array_equal(y, [[6, 7], [0, 1], [6, 7]])
    x, y, _ = source.take(np.zeros(0, np.int64))
    assert (x["a"].shape, x["a"].dtype, y.shape) == ((0,), np.float32, (0, 2))
    x, y, _ = source.take(np.array([[1, 2], [3, 4], [0, 0]]))
    np.testing.assert_array_equal(x["a"], [[1, 2], [3, 4], [0, 0]])
    assert y.shape == (3, 2, 2)


def test_lists_and_texts_are_one_array_where_rows_are_preprocessed():
    x = (["a b", "c"], np.array([b"d", b"e"]))
    source = ArraySource(x, [1, 0], raw=True)
    (first, second), y, _ = source.take(np.array([1]))
    assert (first.tolist(), second.tolist(), y.tolist()) == (["c"], [b"e"], [0])
    rest, (held_x, held_y, _) = source.split(0.5)
    assert (rest.size, held_x[0].tolist(), held_y.tolist()) == (1, ["c"], [0])
    nested = ArraySource({"text": ["a", "b"], "extra": None}, raw=True)
    assert nested.take(np.array([0]))[0]["extra"] is None
    for bad in ([[1, 2], [3]], [object(), object()], "one text"):
        with pytest.raises(ValueError, match=r"`x` must|inhomogeneous"):
            ArraySource(bad, raw=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.zeros((0, 2))}, "at least one example"),
        ({"x": None}, "at least one example"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, r"same number of examples.*x: \[3\], y: \[4\]"),
        ({"x": 3.0}, "`x` must be an array of examples. Received: 3.0"),
        ({"x": np.array("a")}, r"one row for each example. Received shape \(\)"),
        ({"x": np.array([None, 1])}, "numeric.*dtype object"),
        ({"x": np.array(["a", "b"])}, "numeric.*dtype <U1"),
        ({"x": [0, 1]}, "Received: 0. Turn lists of numbers into NumPy arrays"),
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
