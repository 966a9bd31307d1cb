"""`keras.utils.PyDataset`: data that are read a batch at a time."""

import warnings
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_dp.errors import NotPrivateError
from keras_dp.sampling.reading import in_threads
from keras_dp.sampling.rows import Layout, Rows, as_array, count, leaves, map_leaves, unpack
from keras_dp.sampling.source import Source

MUCH = 10
"""Rows read for each row used, above which reading by batch is worth a warning."""


class PyDatasetSource(Source):
    """Reads a `keras.utils.PyDataset` by position: example `i` is a row of batch `i // length`.

    All batches but the last must have the length of the first. `on_epoch_end` is never called, so
    that an example keeps its position. Batches are read in as many threads as the data set has
    `workers`.

    Args:
        dataset: The data set, of finite length.
        raw: Whether the rows will be preprocessed, so that texts are allowed.

    Raises:
        NotPrivateError: when the data set is infinite.
        ValueError: when it is empty, or a batch is not of the form `(x, y, weight)`.

    Privacy:
        The draw is of single examples, whichever batches they lie in. A row must depend on one
        example only: a data set that mixes the rows of a batch breaks the guarantee.
    """

    def __init__(self, dataset: keras.utils.PyDataset, *, raw: bool = False) -> None:
        self._dataset = dataset
        self._raw = raw
        self._warned = False
        self._last_read: tuple[int, Rows] | None = None
        self._batches = _number_of_batches(dataset)
        first = self._read(0)
        self._layout = Layout.of_rows(first)
        self._length = self.batch_size = count(first)
        last = count(self._read(self._batches - 1)) if self._batches > 1 else self._length
        if not 0 < last <= self._length:
            raise ValueError(
                "All batches of a PyDataset must have the first one's length, and the last one "
                f"that length or less, but above 0. Received {self._length} rows in the first and "
                f"{last} in the last of {self._batches} batches."
            )
        self.size = (self._batches - 1) * self._length + last

    def rows(self, indices: npt.NDArray[np.int64]) -> Rows:
        """Return `(x, y, sample_weight)` at these positions, each batch read once."""
        order = np.argsort(indices, kind="stable")
        number, row = np.divmod(indices[order], self._length)
        numbers, kept = np.unique(number).tolist(), self._last_read

        def piece(n: int) -> Rows:
            batch = kept[1] if kept and kept[0] == n else self._checked(n)
            if n == numbers[-1]:  # the next rows may begin in it
                self._last_read = (n, batch)
            x, y, weight = map_leaves(lambda a: a[row[number == n]], batch)
            return x, y, weight

        pieces = in_threads(piece, numbers, self._dataset.workers)
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        x, y, weight = keras.tree.map_structure(
            lambda *parts: None if parts[0] is None else np.concatenate(parts)[places],
            *(pieces or [self._layout.zeros(0)]),
        )
        return x, y, weight

    def arrange(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the positions sorted, so that each batch is read once in an update."""
        self._last_read = None
        batches = len(np.unique(indices // self._length))
        if not self._warned and batches * self._length > MUCH * max(1, len(indices)):
            self._warned = True
            warnings.warn(
                f"An update of {len(indices)} examples reads {batches} batches of "
                f"{self._length} rows, because its examples are drawn from the whole data set "
                "and a PyDataset is read by batch. Pass arrays, or an object that gives single "
                "examples by `__len__` and `__getitem__`, to read only what is used.",
                stacklevel=2,
            )
        return np.sort(indices)

    def _checked(self, number: int) -> Rows:
        is_last = number == self._batches - 1
        wanted = self.size - number * self._length if is_last else self._length
        rows = self._layout.fitted(self._read(number), f"batch {number}")
        if count(rows) != wanted:
            raise ValueError(
                f"Batch {number} of the PyDataset must have {wanted} rows, as "
                f"{'when `fit` began' if is_last else 'the first batch has'}. Received: "
                f"{count(rows)}. Give all batches one length, and let none change while training."
            )
        return rows

    def _read(self, number: int) -> Rows:
        return batch_rows(f"batch {number} of the PyDataset", self._dataset[number], self._raw)


def batch_rows(where: str, batch: Any, raw: bool) -> Rows:
    """Return a batch that a data source gave as arrays.

    Args:
        where: What it is, for errors.
        batch: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, of any library's tensors.
        raw: Whether the rows will be preprocessed, so that texts are allowed.

    Raises:
        ValueError: for anything else, or parts without a row for each example.
    """
    rows = unpack(f"A batch, here {where},", batch)
    x, y, weight = map_leaves(lambda leaf: as_array(f"A part of {where}", leaf, raw=raw), rows)
    shapes = [leaf.shape for leaf in leaves((x, y, weight))]
    if not leaves(x) or len({shape[:1] for shape in shapes}) > 1 or () in shapes:
        raise ValueError(
            "A batch must have a row for each example in all its parts. Received shapes "
            f"{', '.join(map(str, shapes))} in {where}. Batch the data, or pass an object that "
            "gives single examples by `__len__` and `__getitem__`."
        )
    return x, y, weight


def _number_of_batches(dataset: keras.utils.PyDataset) -> int:
    batches = dataset.num_batches
    if batches is None:
        raise NotPrivateError(
            f"`{type(dataset).__name__}` has no end (`num_batches` is None), so examples cannot be "
            "drawn from it: the data must be read at any position. Give it a `__len__`, or pass "
            "NumPy arrays."
        )
    if batches < 1:
        raise ValueError("The training data must hold at least one example. Received none.")
    return int(batches)
