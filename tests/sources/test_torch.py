"""Data of PyTorch train as the equal arrays do, or are refused with what to pass instead."""

import numpy as np
import pytest
import torch

import keras_dp
from keras_dp import sampling
from tests.trained import BATCH, BATCHES, SIZE, X, Y, assert_same_weights, model, trained

TENSORS = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))


class MapStyle(torch.utils.data.Dataset):
    """A user's data set, with Python numbers as targets."""

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return torch.tensor(X[index]), int(Y[index])


class Iterable(torch.utils.data.IterableDataset):
    """Examples or batches in an order of its own."""

    def __init__(self, elements):
        super().__init__()
        self.elements = elements

    def __iter__(self):
        return iter(self.elements)


HALVES = [torch.utils.data.Subset(TENSORS, range(*ends)) for ends in ((0, 20), (20, SIZE))]


@pytest.mark.parametrize(
    "data",
    [
        TENSORS,
        MapStyle(),
        torch.utils.data.Subset(MapStyle(), range(SIZE)),
        torch.utils.data.ConcatDataset(HALVES),
        torch.utils.data.StackDataset(torch.tensor(X), torch.tensor(Y)),
    ],
    ids=lambda data: type(data).__name__,
)
def test_map_style_data_sets_train_as_the_equal_arrays(data):
    assert_same_weights(trained(data), trained(X, Y))
    history = trained(data, validation_data=data).history.history
    assert len(history["val_loss"]) == 2


def test_tensors_train_as_the_equal_arrays():
    assert_same_weights(trained(torch.tensor(X), torch.tensor(Y)), trained(X, Y))


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (torch.utils.data.DataLoader(TENSORS, batch_size=BATCH), r"`loader\.dataset`"),
        (Iterable(BATCHES), "map-style dataset"),
        (torch.utils.data.ChainDataset([Iterable(BATCHES)]), "map-style dataset"),
    ],
)
def test_streams_are_refused_with_what_to_pass_instead(data, remedy):
    made = model()
    with pytest.raises(keras_dp.NotPrivateError, match=rf"any position.*{remedy}.*Stream\("):
        made.fit(data)
    assert made.ledger.updates == 0


@pytest.mark.parametrize(
    ("data", "stated"),
    [
        (torch.utils.data.DataLoader(TENSORS, batch_size=BATCH), {}),
        (torch.utils.data.DataLoader(MapStyle(), batch_size=BATCH), {}),
        (Iterable(BATCHES), {"dataset_size": SIZE, "updates_per_epoch": len(BATCHES)}),
    ],
)
def test_streams_train_as_the_batches_that_they_give(data, stated):
    made = model(sampling.Stream(**stated))
    made.fit(data, epochs=2, verbose=0)
    expected = model()
    for x, y in BATCHES * 2:
        expected.train_on_batch(x, y)
    assert_same_weights(made, expected)
    (release,) = made.ledger.releases
    assert (release.plan.dataset_size, release.plan.updates_per_epoch) == (SIZE, len(BATCHES))


def test_single_examples_are_no_batches_of_a_stream():
    made = model(sampling.Stream(dataset_size=SIZE, updates_per_epoch=5))
    with pytest.raises(ValueError, match=r"a row for each example.*\(4,\), \(\) in batch 0"):
        made.fit(Iterable([(x, y) for x, y in zip(X, Y, strict=True)]), verbose=0)
    assert np.isfinite(made.get_weights()[0]).all()
