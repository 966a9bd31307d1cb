"""Data to evaluate and predict on, in a form that Keras takes."""

from typing import Any

import keras
import numpy as np

from keras_dp.sampling.examples import lost_by
from keras_dp.sampling.kinds import as_reader, gives_examples, is_stream
from keras_dp.sampling.preprocessing import Preprocess, apply
from keras_dp.sampling.rows import as_array, count, leaves, map_leaves
from keras_dp.sampling.source import Source

DEFAULT_BATCH_SIZE = 32


class Batches(keras.utils.PyDataset):
    """The rows of a source in order, cut into batches and preprocessed.

    Args:
        source: What reads the rows.
        batch_size: Rows in a batch.
        preprocess: Function of raw rows that returns what the model takes, or `None`.
    """

    def __init__(self, source: Source, batch_size: int, preprocess: Preprocess | None) -> None:
        super().__init__()
        self._source = source
        self._batch_size = batch_size
        self._preprocess = preprocess

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self._source.size // self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return `(x,)`, `(x, y)` or `(x, y, sample_weight)` of a batch."""
        start = index * self._batch_size
        stop = min(start + self._batch_size, self._source.size)
        x, y, weight = self._source.take(np.arange(start, stop))
        if self._preprocess is not None:
            x, y, weight = apply(self._preprocess, (x, y, weight))
        return (x,) if y is None else (x, y) if weight is None else (x, y, weight)


def evaluation_data(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None,
    preprocess: Preprocess | None,
) -> tuple[Any, Any, Any]:
    """Return `(x, y, sample_weight)` for Keras' `evaluate` and `predict`.

    What Keras reads itself is passed on as it is; what it does not, rows that must be preprocessed
    and data that give single examples, as a `PyDataset`.

    Args:
        x: Data of any kind that `fit` takes, or that Keras takes.
        y: Targets.
        sample_weight: Weights of the examples.
        batch_size: Rows in a batch, default 32 as in Keras.
        preprocess: Function of raw rows that returns what the model takes, or `None`.

    Returns:
        What Keras takes; `y` and `sample_weight` are `None` where `x` gives them.

    Raises:
        ValueError: for raw data that can neither be read at any position nor be mapped.
    """
    in_batches = is_stream(x) or lost_by(x) is not None
    if isinstance(x, Batches) or (preprocess is None and (in_batches or not gives_examples(x))):
        return x, y, sample_weight
    if preprocess is not None and in_batches:
        return _mapped(x, preprocess), None, None
    source = as_reader(x, y, sample_weight, raw=preprocess is not None)
    size = batch_size or source.batch_size or DEFAULT_BATCH_SIZE
    return Batches(source, size, preprocess), None, None


def batch_sizes(x: Any, batch_size: int | None) -> set[int]:
    """Return the sizes of the batches that Keras makes of what `evaluation_data` returned.

    Args:
        x: Arrays, or whatever Keras takes; only of arrays and of our own data sets it is known.
        batch_size: Rows in a batch, default 32 as in Keras.
    """
    if isinstance(x, Batches):
        size, rows = x._batch_size, x._source.size
    elif all(hasattr(leaf, "shape") for leaf in leaves(x)):
        size, rows = batch_size or DEFAULT_BATCH_SIZE, count(x)
    else:
        return set()
    return {min(size, rows), rows % size} - {0}


def _mapped(data: Any, preprocess: Preprocess) -> Any:
    """Preprocess the batches of a `tf.data.Dataset` or a Grain data set."""
    if not hasattr(data, "map"):
        raise ValueError(
            "Raw data to evaluate or predict on must be arrays, a tf.data.Dataset or a Grain data "
            f"set. Received: {type(data).__name__}."
        )
    if hasattr(data, "element_spec"):  # tf.data calls the function with the parts of an element
        return data.map(preprocess)
    return data.map(
        lambda batch: map_leaves(
            lambda leaf: as_array("The preprocessed data", leaf),
            preprocess(*keras.utils.unpack_x_y_sample_weight(batch)),
        )
    )
