"""Rows become NumPy arrays of one layout."""

import jax.numpy as jnp
import numpy as np
import pytest

from keras_dp.sampling.rows import Layout, as_array, describe, unpack


class Tensor:
    """A tensor of another library."""

    def __array__(self, dtype=None, copy=None):
        return np.array([1.5, 2.5], "float64")


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (3, np.int64(3)),
        (2.5, np.float32(2.5)),
        (True, np.bool_(True)),
        (np.float64(1.0), np.float32(1.0)),
        (np.uint8([1]), np.uint8([1])),
        (jnp.float32(2), np.float32(2)),
        (Tensor(), np.float32([1.5, 2.5])),
    ],
)
def test_what_a_library_gives_becomes_an_array_in_keras_precision(leaf, expected):
    array = as_array("`x`", leaf)
    np.testing.assert_array_equal(array, expected)
    assert array.dtype == expected.dtype


@pytest.mark.parametrize("leaf", ["text", b"bytes", object(), np.datetime64("2020-01-01"), None])
def test_what_is_no_number_is_refused(leaf):
    with pytest.raises(ValueError, match=r"`x` of example 3 must be numbers.*Received: "):
        as_array("`x` of example 3", leaf)


def test_texts_are_taken_where_they_will_be_preprocessed():
    assert as_array("`x`", "text", raw=True).item() == "text"
    assert as_array("`x`", np.array(["a", "bc"]), raw=True).tolist() == ["a", "bc"]
    with pytest.raises(ValueError, match="numbers or texts"):
        as_array("`x`", np.array(["a", 3], object), raw=True)


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        (1, (1, None, None)),
        ((1,), (1, None, None)),
        ((1, 2), (1, 2, None)),
        ([1, 2, 3], (1, 2, 3)),
        (({"a": 1}, 2), ({"a": 1}, 2, None)),
    ],
)
def test_an_element_is_unpacked_as_keras_does(element, expected):
    assert unpack("Example 0", element) == expected


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (
            {"image": 1, "label": 2},
            r"Example 7 must be .*dict with 'image', 'label'.*"
            r"RandomAccess\(data, transform=lambda e: \(e\['image'\], e\['label'\]\)\)",
        ),
        ({}, "Example 7 must be .*dict"),
        ((1, 2, 3, 4), "Example 7 must be .*Received: 4 parts"),
        ((), "Example 7 must be .*Received: 0 parts"),
        (None, "Example 7 must be .*Received: None.*leave examples out before"),
    ],
)
def test_an_element_of_another_form_is_refused_with_the_remedy(element, message):
    with pytest.raises(ValueError, match=message):
        unpack("Example 7", element)


def example(x=(2,), y=(), dtype="float32"):
    return {"a": np.ones(x, dtype)}, np.zeros(y, "int64"), None


def test_examples_of_one_layout_are_stacked_in_its_dtypes():
    layout = Layout(example())
    x, y, weight = layout.stack([example(), example(dtype="int16")], ["Example 0", "Example 1"])
    assert (x["a"].shape, x["a"].dtype, y.shape, weight) == ((2, 2), np.float32, (2,), None)
    x, y, weight = layout.stack([], [])
    assert (x["a"].shape, y.shape, y.dtype, weight) == ((0, 2), (0,), np.int64, None)


@pytest.mark.parametrize(
    ("other", "received"),
    [
        (example(x=(3,)), r"a: float32\[3\]"),
        (example(y=(1,)), r"int64\[1\]"),
        (example(dtype="complex64"), r"complex64\[2\]"),
        (({"b": np.ones(2, "float32")}, np.zeros(()), None), "b: "),
        (({"a": np.ones(2, "float32")}, None, None), "None, None"),
        ((*example()[:2], np.ones(())), r"float64\[\]"),
    ],
)
def test_an_example_of_another_layout_is_refused_by_name(other, received):
    layout = Layout(example())
    message = rf"Example 5 must look like the first.*a: float32\[2\].*Received: .*{received}.*pad"
    with pytest.raises(ValueError, match=message):
        layout.stack([example(), other], ["Example 4", "Example 5"])
    rows = tuple(None if p is None else {k: v[None] for k, v in p.items()} if isinstance(p, dict)
                 else p[None] for p in other)  # fmt: skip
    with pytest.raises(ValueError, match="A row of batch 2 must look like the first"):
        layout.fitted(rows, "batch 2")


def test_a_layout_is_described_in_one_line():
    assert describe(example()) == "({a: float32[2]}, int64[], None)"
