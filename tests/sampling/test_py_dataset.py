"""A PyDataset is read by position, each batch once in an update."""

import numpy as np
import pytest

from keras_dp import sampling
from keras_dp.errors import NotPrivateError
from keras_dp.sampling.py_dataset import PyDatasetSource
from tests.standins import Batches

X = np.arange(46.0).reshape(23, 2)
Y = np.arange(23)


def source(batch_size=5, **kwargs):
    return PyDatasetSource(Batches(X, Y, batch_size=batch_size), **kwargs)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
@pytest.mark.parametrize(
    "positions",
    [[22, 3, 4, 20, 0], [7, 7, 0, 7], [], [[5, 6], [22, 6]]],
    ids=lambda positions: str(positions),
)
def test_rows_are_those_of_the_arrays_at_the_same_positions(batch_size, positions):
    indices = np.array(positions, np.int64)
    data = source(batch_size)
    assert (data.size, data.batch_size) == (23, min(batch_size, 23))
    for ours, theirs in zip(
        data.take(indices), sampling.ArraySource(X, Y).take(indices), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_each_batch_is_read_once_in_an_update_however_it_is_cut_into_microbatches():
    dataset = Batches(X, Y, batch_size=5)
    data = PyDatasetSource(dataset)
    for drawn in ([21, 3, 11, 4, 12, 0, 20], [4, 3]):
        dataset.reads.clear()
        arranged = data.arrange(np.array(drawn))
        assert sorted(arranged) == sorted(drawn)
        taken = [data.take(arranged[start : start + 2])[1] for start in range(0, len(drawn), 2)]
        assert np.concatenate(taken).tolist() == sorted(drawn)
        assert dataset.reads == sorted({position // 5 for position in drawn})


def test_an_update_that_reads_much_for_little_is_warned_of_once():
    data = source()
    with pytest.warns(UserWarning, match=r"1 examples reads 1 batches of 11.*Pass arrays, or an"):
        source(11).arrange(np.array([3]))
    with pytest.warns(UserWarning, match="reads 3 batches") as warned:
        wide = source(11)
        for _ in range(3):
            wide.arrange(np.array([3, 12, 22]))
    assert len(warned) == 1
    data.arrange(np.array([3, 4]))


class Changing(Batches):
    """Its batches can be exchanged."""

    def __init__(self, **kwargs):
        super().__init__(X, Y, **kwargs)
        self.other = {}

    def __getitem__(self, index):
        return self.other.get(index, super().__getitem__(index))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X[:4], Y[:4]), "Batch 2 of the PyDataset must have 5 rows.*first batch.*Received: 4"),
        ((X[:6], Y[:6]), "Batch 2 of the PyDataset must have 5 rows.*Received: 6"),
        ((X[:5, :1], Y[:5]), r"A row of batch 2 must look like.*float32\[2\].*float32\[1\]"),
        ((X[:5], Y[:4]), r"a row for each example.*\(5, 2\), \(4,\) in batch 2"),
        ((X[:5],), "A row of batch 2 must look like.*None, None"),
        ({"x": X[:5]}, "A batch, here batch 2 of the PyDataset, must be.*dict"),
    ],
)
def test_a_batch_unlike_the_first_is_refused_by_number(batch, message):
    dataset = Changing(batch_size=5)
    data = PyDatasetSource(dataset)
    dataset.other[2] = batch
    data.take(np.array([0, 22]))
    with pytest.raises(ValueError, match=message):
        data.take(np.array([0, 12]))


def test_a_last_batch_that_changes_is_refused():
    dataset = Changing(batch_size=5)
    data = PyDatasetSource(dataset)
    dataset.other[4] = (X[:2], Y[:2])
    with pytest.raises(ValueError, match=r"Batch 4.*must have 3 rows, as when `fit` began.*: 2"):
        data.take(np.array([20]))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({0: (X[:0], Y[:0])}, "Received 0 rows in the first and 3 in the last of 5 batches"),
        ({0: (X[:2], Y[:2])}, "Received 2 rows in the first and 3 in the last"),
        ({4: (X[:0], Y[:0])}, "Received 5 rows in the first and 0 in the last"),
        ({0: (X[0], Y[0])}, r"a row for each example.*\(2,\), \(\) in batch 0"),
        ({0: (None,)}, "a row for each example"),
    ],
)
def test_first_and_last_batches_that_cannot_be_are_refused(other, message):
    dataset = Changing(batch_size=5)
    dataset.other = other
    with pytest.raises(ValueError, match=message):
        PyDatasetSource(dataset)


def test_a_data_set_without_end_or_without_batches_is_refused():
    class Endless(Batches):
        num_batches = None

    class Empty(Batches):
        num_batches = 0

    with pytest.raises(NotPrivateError, match=r"Endless` has no end.*`num_batches` is None"):
        PyDatasetSource(Endless(X, Y, batch_size=5))
    with pytest.raises(ValueError, match=r"at least one example. Received none"):
        PyDatasetSource(Empty(X, Y, batch_size=5))


def test_it_cannot_be_split_for_validation():
    with pytest.raises(ValueError, match=r"`validation_split` works with arrays only.*Split"):
        source().split(0.5)
