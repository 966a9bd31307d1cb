"""Data that give one example for each position: read exactly, or refused."""

import numpy as np
import pytest

from keras_dp import sampling
from keras_dp.errors import NotPrivateError
from keras_dp.sampling.examples import ExampleSource
from tests.standins import Examples, IterableDataset, Subset

X = np.arange(24.0).reshape(8, 3)
Y = np.arange(8) * 10


class Counting(Examples):
    """Remembers what was read."""

    def __init__(self, *arrays):
        super().__init__(*arrays)
        self.reads = []

    def __getitem__(self, index):
        self.reads.append(index)
        return super().__getitem__(index)


@pytest.mark.parametrize("data", [Examples(X, Y), Subset(Examples(X, Y), range(8))])
@pytest.mark.parametrize(
    "positions", [[5, 2, 7], [0, 0, 3, 0], [], [[1, 2], [2, 1]]], ids=lambda p: str(p)
)
def test_rows_are_those_of_the_arrays_at_the_same_positions(data, positions):
    indices = np.array(positions, np.int64)
    x, y, weight = ExampleSource(data).take(indices)
    expected_x, expected_y, _ = sampling.ArraySource(X, Y).take(indices)
    np.testing.assert_array_equal(x, expected_x)
    np.testing.assert_array_equal(y, expected_y)
    assert (x.dtype, y.dtype, weight) == (expected_x.dtype, expected_y.dtype, None)


def test_a_position_that_is_asked_for_several_times_is_read_once():
    data = Counting(X, Y)
    source = ExampleSource(data)
    data.reads.clear()
    source.take(np.array([4, 4, 2, 4]))
    assert sorted(data.reads) == [2, 4]
    assert all(type(index) is int for index in data.reads)


def test_elements_may_have_weights_and_nested_parts():
    weights = np.linspace(0, 1, 8)

    class Nested(Examples):
        def __getitem__(self, index):
            x, y, weight = super().__getitem__(index)
            return {"a": x, "b": [x[0], (int(y),)]}, y, weight

    x, y, weight = ExampleSource(Nested(X, Y, weights)).take(np.array([3, 1]))
    np.testing.assert_array_equal(x["a"], X[[3, 1]])
    np.testing.assert_array_equal(x["b"][0], X[[3, 1], 0])
    np.testing.assert_array_equal(x["b"][1][0], [30, 10])
    np.testing.assert_allclose(weight, weights[[3, 1]], rtol=1e-6)
    assert (x["a"].dtype, weight.dtype, y.dtype.kind) == (np.float32, np.float32, "i")


def test_a_transform_is_applied_to_one_example_at_a_time():
    seen = []

    def transform(element):
        seen.append(element["image"].shape)
        return element["image"] / 2, element["label"]

    examples = [{"image": row, "label": label} for row, label in zip(X, Y, strict=True)]
    for data in (examples, Subset(examples, range(8))):
        wrapped = sampling.RandomAccess(data, transform)
        x, y, _ = ExampleSource(wrapped).take(np.array([6, 1]))
        np.testing.assert_array_equal(x, X[[6, 1]] / 2)
        np.testing.assert_array_equal(y, [60, 10])
        np.testing.assert_array_equal(wrapped[3][0], X[3] / 2)
    assert set(seen) == {(3,)}
    assert len(sampling.RandomAccess(examples)) == 8
    assert sampling.RandomAccess(examples)[2] is examples[2]
    assert repr(sampling.RandomAccess(examples)) == (
        "keras_dp.sampling.RandomAccess(list, transform=None)"
    )


@pytest.mark.parametrize(
    ("data", "transform", "message"),
    [
        (iter([1]), None, "read at any position, with `__len__` and `__getitem__`.*list_iterator"),
        (IterableDataset([1]), None, "read at any position.*IterableDataset"),
        ([1], "image", "`transform` must be a function or None. Received: 'image'"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(data, transform, message):
    with pytest.raises(ValueError, match=message):
        sampling.RandomAccess(data, transform)


class Wrong(Examples):
    """Gives another number of examples than asked for."""

    def __init__(self, extra):
        super().__init__(X, Y)
        self.extra = extra

    def __getitems__(self, indices):
        return [self[0]] * (len(indices) + self.extra)


@pytest.mark.parametrize("extra", [-1, 1])
def test_another_number_of_examples_than_asked_for_is_refused(extra):
    message = rf"Wrong.__getitems__` must give one example.*Received {1 + extra} for 1"
    with pytest.raises(ValueError, match=message):
        ExampleSource(Wrong(extra))


class Short(Examples):
    """Has fewer examples than its length says."""

    def __len__(self):
        return 20


class ShortTogether(Short):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


@pytest.mark.parametrize(
    ("data", "where"),
    [(Short(X, Y), "position 15"), (ShortTogether(X, Y), r"one of the positions \[1, 15\]")],
)
def test_a_position_without_an_example_is_refused_by_number(data, where):
    with pytest.raises(ValueError, match=rf"below its length, 20.*IndexError for {where}.*agree"):
        ExampleSource(data).take(np.array([1, 15]))


def test_a_size_that_changes_is_refused_with_both_sizes():
    data = Examples(X, Y)
    source = ExampleSource(data)
    data.arrays = (X[:7], Y[:7])
    with pytest.raises(ValueError, match=r"must not change while training. It was 8 and is 7 now"):
        source.take(np.array([1]))


def test_an_example_of_another_shape_is_refused_with_its_position():
    ragged = [(np.zeros(3 + (i == 5)), i) for i in range(8)]
    source = ExampleSource(sampling.RandomAccess(ragged))
    with pytest.raises(ValueError, match=r"Example 5 .*float32\[3\].*float32\[4\].*pad"):
        source.take(np.array([0, 5]))


@pytest.mark.parametrize(
    ("element", "message"),
    [
        ({"image": 1, "label": 2}, r"Example 0 must be.*RandomAccess\(data, transform="),
        (None, "Example 0 must be.*Received: None"),
        (("text", 1), "`x` of example 0 must be numbers.*str"),
        ((1, object()), "`y` of example 0 must be numbers"),
    ],
)
def test_elements_of_another_form_are_refused(element, message):
    with pytest.raises(ValueError, match=message):
        ExampleSource(sampling.RandomAccess([element] * 3))


def test_texts_are_read_where_they_will_be_preprocessed():
    source = ExampleSource(sampling.RandomAccess([("a b", 0), ("c", 1)]), raw=True)
    x, _, _ = source.take(np.array([1, 0, 1]))
    assert x.tolist() == ["c", "a b", "c"]
    assert source.take(np.zeros(0, np.int64))[0].shape == (0,)


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match=r"at least one example. Received none"):
        ExampleSource(sampling.RandomAccess([]))


def test_grain_data_sets_are_read_before_they_are_batched_or_repeated():
    import grain

    data = grain.MapDataset.source(Examples(X, Y)).map(lambda e: (e[0] * 2, e[1]))
    x, y, _ = ExampleSource(data).take(np.array([7, 0]))
    np.testing.assert_array_equal(x, X[[7, 0]] * 2)
    np.testing.assert_array_equal(y, Y[[7, 0]])
    for step, lost in {"batch": data.batch(4), "repeat": data.repeat(2).map(lambda e: e)}.items():
        message = rf"every example once, by itself.*`\.{step}\(\.\.\.\)`"
        with pytest.raises(NotPrivateError, match=message):
            ExampleSource(lost)
        with pytest.raises(NotPrivateError, match=message):
            ExampleSource(sampling.RandomAccess(sampling.RandomAccess(lost)))
