"""Slow data are read by several threads, which give the same rows and the same errors."""

import threading

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.sampling import RandomAccess
from keras_dp.sampling.kinds import as_reader
from keras_dp.sampling.reading import in_threads
from tests.standins import Batches, Examples
from tests.trained import BATCHES, X, Y, assert_same_weights, model, trained

WAIT = 60
"""Seconds after which a test fails that waits for what does not come."""


class Together:
    """A read that ends only when `count` of them have begun, each in a thread of its own."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count, timeout=WAIT)
        self.threads = set()

    def __call__(self, item):
        self.barrier.wait()
        self.threads.add(threading.current_thread())
        return item


class Threaded(Batches):
    """Batches that are read together."""

    def __init__(self, *arrays, batch_size, workers):
        super().__init__(*arrays, batch_size=batch_size)
        self.workers = workers
        self.together = None

    def __getitem__(self, index):
        if self.together is not None:
            self.together(index)
        return super().__getitem__(index)


def test_results_are_in_order_and_the_threads_end():
    read = Together(3)
    assert in_threads(read, list(range(6)), 3) == list(range(6))
    assert len(read.threads) == 3
    assert not any(thread.is_alive() for thread in read.threads)


def test_one_worker_reads_in_the_callers_thread():
    read = Together(1)
    assert in_threads(read, [1, 2], 1) == [1, 2]
    assert read.threads == {threading.current_thread()}


def test_a_py_dataset_is_read_by_as_many_threads_as_it_has_workers():
    data = Threaded(X, Y, batch_size=5, workers=4)
    source = as_reader(data)
    positions = np.arange(40)[::3]  # rows of all eight batches
    data.reads.clear()
    data.together = Together(4)
    x, y, _ = source.rows(positions)
    assert len(data.together.threads) == 4
    assert sorted(data.reads) == list(range(8))
    np.testing.assert_array_equal(x, X[positions])
    np.testing.assert_array_equal(y, Y[positions])


def test_examples_are_read_and_transformed_by_workers():
    read, transformed = Together(4), Together(4)
    examples = Examples(X, Y)
    examples.__class__ = type("Slow", (Examples,), {"__getitem__": lambda self, i: (X[read(i)],)})
    data = RandomAccess(examples, lambda e: (transformed(0), *e)[1:], workers=4)
    (x,) = zip(*data.__getitems__(list(range(8))), strict=True)
    np.testing.assert_array_equal(x, X[:8])
    assert len(read.threads) == len(transformed.threads) == 4
    assert repr(data).endswith("workers=4)")


@pytest.mark.parametrize("workers", [0, 1.5])
def test_a_number_of_workers_that_is_none_is_refused(workers):
    with pytest.raises(ValueError, match="`workers` must be"):
        RandomAccess(BATCHES, workers=workers)


@pytest.mark.parametrize(
    "data",
    [
        lambda: Threaded(X, Y, batch_size=5, workers=3),
        lambda: RandomAccess(Examples(X, Y), workers=3),
    ],
)
def test_weights_are_those_of_equal_arrays(data):
    assert_same_weights(trained(data()), trained(X, Y))


def test_an_error_in_a_thread_ends_fit_with_the_update_counted_and_no_thread_left():
    def spoilt(example):
        if threading.current_thread().name.startswith("keras_dp-reading") and started:
            raise OSError("the disk went away")
        return example

    started = []
    made = model()
    begin = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs=None: started.append(batch) if batch else None
    )
    before = made.get_weights()
    with pytest.raises(OSError, match="the disk went away"):
        made.fit(
            RandomAccess(Examples(X, Y), spoilt, workers=2),
            batch_size=8,
            callbacks=[begin],
            verbose=0,
        )
    assert made.ledger.updates == 2  # the first was made, the second was written down
    assert any((a != b).any() for a, b in zip(made.get_weights(), before, strict=True))
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("keras_dp-reading")]


def test_no_thread_is_started_without_need(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("a thread began"))
    assert in_threads(str, [1], 8) == ["1"]
    assert keras_dp.sampling.RandomAccess(Examples(X, Y)).__getitems__([0, 1])
