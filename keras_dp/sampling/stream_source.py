"""Streams of batches, which cannot be read at random positions."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_dp.sampling.py_dataset import batch_rows
from keras_dp.sampling.rows import Layout, Rows, count, map_leaves
from keras_dp.sampling.source import Source
from keras_dp.sampling.stream import PoissonStream, Stream, StreamSampler

_END = object()


class StreamSource(Source):
    """Hands out the batches of a stream, one for each update.

    `next_batch` moves on; `take` reads rows of the batch that is at hand.

    Args:
        data: An iterable of batches `(x, y)`, or a function that returns one.
        sampler: What the user states about the stream.
        steps_per_epoch: Updates in an epoch of `fit`, or `None`.
        transform: Function of a batch's rows, such as weights of classes.
        raw: Whether `transform` takes texts.

    Raises:
        ValueError: when the stream is empty, its size or length is not known, or a batch is not of
            the form `(x, y, weight)`.

    Privacy:
        The number of examples in a batch does not matter for one example's share of the sum. What
        matters is how often an example comes: see `Stream` and `PoissonStream`.
    """

    def __init__(
        self,
        data: Any,
        sampler: StreamSampler,
        *,
        steps_per_epoch: int | None = None,
        transform: Callable[[Rows], Rows] | None = None,
        raw: bool = False,
    ) -> None:
        self._passes = _Passes(data)
        self._transform = transform
        self._raw = raw
        self.size = _stated_size(data, sampler)
        if isinstance(sampler, Stream):
            self.updates_per_epoch = _stated_updates(data, sampler, steps_per_epoch)
        self._begin_pass()
        first, _ = self._read()
        self._layout = Layout.of_rows(first)
        self._at_hand = first
        self._peeked.append(first)
        declared = sampler.batch_size if isinstance(sampler, PoissonStream) else count(first)
        self.batch_size = declared or None

    def open(self, updates: int) -> None:
        """Refuse a stream that cannot begin again when more than one pass is planned."""
        if self.updates_per_epoch is not None and updates > self.updates_per_epoch:
            self._passes.check_can_restart(f"{updates} updates are planned")

    def first(self) -> Rows:
        """Return two rows of zeros with the shapes and dtypes of the stream's."""
        return self._layout.zeros(2)

    def next_batch(self) -> Rows:
        """Move on to the next batch and return it; it may have any number of rows, also none.

        Raises:
            ValueError: when a pass is not what was stated: it ends too early or gives too many
                examples, or the stream cannot begin again.
        """
        if self._taken == self.updates_per_epoch:
            self._begin_pass()
        rows = self._peeked.pop() if self._peeked else self._next()
        self._taken += 1
        self._seen += count(rows)
        self._check_size()
        self._at_hand = rows
        return rows

    def rows(self, indices: npt.NDArray[np.int64]) -> Rows:
        """Return rows of the batch at hand; zeros to fill up with when it is empty."""
        at_hand = self._at_hand if count(self._at_hand) else self._layout.zeros(1)
        x, y, weight = map_leaves(lambda a: a[indices], at_hand)
        return x, y, weight

    def _begin_pass(self) -> None:
        self._passes.begin()
        self._taken = self._seen = 0
        self._peeked: list[Rows] = []

    def _next(self) -> Rows:
        rows, where = self._read()
        return self._layout.fitted(rows, where)

    def _read(self) -> tuple[Rows, str]:
        """Return the next batch as arrays, and what it is, for errors."""
        batch = self._passes.next()
        if batch is _END and self._taken > 0:
            self._check_length()
            self._begin_pass()
            batch = self._passes.next()
        if batch is _END:
            raise ValueError("The training data must hold at least one example. Received none.")
        where = f"batch {self._taken} of the stream"
        rows = batch_rows(where, batch, self._raw)
        return (rows if self._transform is None else self._transform(rows)), where

    def _check_length(self) -> None:
        """Refuse a pass that ended early: the next one would give examples again too soon."""
        if self.updates_per_epoch is not None:
            raise ValueError(
                f"The stream ended after {self._taken} batches, but every example takes part at "
                f"most once in {self.updates_per_epoch} updates, as `updates_per_epoch` or "
                f"`steps_per_epoch` states. Set `updates_per_epoch` to {self._taken}."
            )

    def _check_size(self) -> None:
        too_many = self._seen > self.size
        if self.updates_per_epoch is not None and too_many:
            raise ValueError(
                f"The stream gives more examples in a pass than `dataset_size` states: at least "
                f"{self._seen} in {self._taken} batches. Received: dataset_size={self.size}. State "
                "the true number; for a stream that repeats itself, state `updates_per_epoch`."
            )


class _Passes:
    """A stream that can begin again: an iterable, or a function that makes one."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._begun = False
        self._iterator: Iterator[Any] = iter(())

    def begin(self) -> None:
        """Begin a pass from the start."""
        if self._begun:
            self.check_can_restart("the first pass has ended")
        self._begun = True
        self._iterator = iter(self._data() if callable(self._data) else self._data)

    def next(self) -> Any:
        """Return the next batch, or `_END`."""
        return next(self._iterator, _END)

    def check_can_restart(self, reason: str) -> None:
        """Refuse a generator that has run: there is no way back to its start."""
        if isinstance(self._data, Iterator):
            raise ValueError(
                f"The stream must begin again, since {reason}, but a "
                f"{type(self._data).__name__} object runs once only. Pass a function that returns "
                "a new one, or an iterable such as a tf.data.Dataset or a DataLoader."
            )


def _stated_size(data: Any, sampler: StreamSampler) -> int:
    if sampler.dataset_size is not None:
        return sampler.dataset_size
    size = _length(getattr(data, "dataset", None))
    if size is None:
        raise ValueError(
            "The number of examples must be known, and a stream does not tell it. State it: "
            "`sampling=keras_dp.sampling.Stream(dataset_size=...)`."
        )
    return size


def _stated_updates(data: Any, sampler: Stream, steps_per_epoch: int | None) -> int:
    stated = sampler.updates_per_epoch or steps_per_epoch or _length(data)
    if stated is None:
        raise ValueError(
            "It must be known in how many updates an example takes part at most once, and this "
            "stream does not tell its length. State it: `keras_dp.sampling.Stream("
            "updates_per_epoch=...)`, or `steps_per_epoch` in `fit`."
        )
    return stated


def _length(data: Any) -> int | None:
    """Return the length of what has a finite one."""
    try:
        length = len(data)
    except TypeError:
        return None
    return length if 0 < length < sys.maxsize else None
