"""Each kind of data finds its source, or is refused with what to pass instead."""

import numpy as np
import pytest

from keras_dp import sampling
from keras_dp.errors import NotPrivateError
from tests.standins import (
    Batches,
    DataLoader,
    DatasetV2,
    Examples,
    IterableDataset,
    Subset,
)


class IterDataset:
    """`grain.IterDataset`."""

    def __iter__(self):
        return iter(BATCHED)


X = np.arange(24.0).reshape(12, 2)
Y = np.arange(12) % 3
EXAMPLES = Examples(X, Y)
BATCHED = [(X[:6], Y[:6]), (X[6:], Y[6:])]
AT_ANY_POSITION = {
    "examples": EXAMPLES,
    "subset": Subset(EXAMPLES, range(12)),
    "wrapped list": sampling.RandomAccess(list(zip(X, Y, strict=True))),
    "PyDataset": Batches(X, Y, batch_size=5),
}
STREAMS = {
    "DataLoader": (DataLoader(EXAMPLES, 6), r"Pass `loader\.dataset`"),
    "IterableDataset": (IterableDataset(list(zip(X, Y, strict=True))), "Pass a map-style dataset"),
    "IterDataset": (IterDataset(), r"Pass the `grain\.MapDataset`.*before `\.batch`"),
    "tf.data": (DatasetV2(BATCHED), r"Pass NumPy arrays, a `tfds\.data_source`, or a Grain"),
    "generator": ((batch for batch in BATCHED), r"NumPy arrays or a keras\.utils\.PyDataset"),
    "function": (lambda: iter(BATCHED), r"NumPy arrays or a keras\.utils\.PyDataset"),
}


@pytest.mark.parametrize("name", AT_ANY_POSITION)
@pytest.mark.parametrize("sampler", [*map(sampling.resolve, ("poisson", "shuffle")), None])
def test_data_with_positions_are_read_at_them(name, sampler):
    source = sampling.as_source(AT_ANY_POSITION[name], sampler=sampler)
    assert len(source) == 12
    for ours, theirs in zip(
        source.take(np.array([11, 0, 5])),
        sampling.ArraySource(X, Y).take(np.array([11, 0, 5])),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", AT_ANY_POSITION)
def test_weights_of_classes_follow_the_targets(name):
    source = sampling.as_source(
        AT_ANY_POSITION[name], class_weight={1: 5.0}, sampler=sampling.Poisson()
    )
    assert source.take(np.array([1, 3, 4]))[2].tolist() == [5.0, 1.0, 5.0]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize(
    "sampler", [*(make() for make in sampling.SAMPLERS.values()), None], ids=repr
)
def test_streams_are_refused_where_examples_are_drawn(name, sampler):
    data, remedy = STREAMS[name]
    message = (
        rf"read at any position.*{remedy}.*Stream\(dataset_size=\.\.\.\)`; with `PoissonStream"
    )
    with pytest.raises(NotPrivateError, match=message):
        sampling.as_source(data, sampler=sampler)


@pytest.mark.parametrize("name", ["DataLoader", "IterDataset", "tf.data", "generator", "function"])
def test_streams_are_taken_as_streams(name):
    sampler = sampling.Stream(dataset_size=12, updates_per_epoch=2)
    data = STREAMS[name][0]
    if name == "generator":
        data = (batch for batch in BATCHED)
    source = sampling.as_source(data, class_weight={1: 5.0}, sampler=sampler)
    for x, y in BATCHED:
        taken_x, taken_y, weight = source.next_batch()
        np.testing.assert_array_equal(taken_x, x)
        np.testing.assert_array_equal(taken_y, y)
        np.testing.assert_array_equal(weight, np.where(y == 1, 5.0, 1.0))


@pytest.mark.parametrize(
    "data", [X, {"a": X}, *AT_ANY_POSITION.values()], ids=lambda d: str(type(d))
)
@pytest.mark.parametrize(
    "sampler",
    [sampling.Stream(dataset_size=12), sampling.PoissonStream(batch_size=3, dataset_size=12)],
)
def test_data_with_positions_are_refused_as_streams(data, sampler):
    with pytest.raises(ValueError, match=r"is for streams of batches.*leave `sampling` out"):
        sampling.as_source(data, sampler=sampler)


@pytest.mark.parametrize("data", [EXAMPLES, AT_ANY_POSITION["PyDataset"], DatasetV2(BATCHED)])
@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_targets_and_weights_beside_a_data_set_are_refused_as_in_keras(data, name):
    stream = isinstance(data, DatasetV2)
    sampler = sampling.Stream(dataset_size=12) if stream else sampling.Poisson()
    with pytest.raises(ValueError, match=rf"`{name}` must be left out when `x` is a data set"):
        sampling.as_source(data, **{name: Y}, sampler=sampler)


def test_arrays_and_structures_of_them_stay_arrays():
    for x in (X, {"a": X}, [X, X], (X,)):
        assert isinstance(sampling.as_source(x, sampler=sampling.Poisson()), sampling.ArraySource)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (None, "at least one example"),
        ("text", "`x` must be an array of examples. Received: 'text'"),
        ([], "at least one example"),
        (object(), "read at any position.*Received: object"),
        (3.0, "`x` must be an array of examples"),
    ],
)
def test_what_is_no_data_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        sampling.as_source(x, sampler=sampling.Poisson())
