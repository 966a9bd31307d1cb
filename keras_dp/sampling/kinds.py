"""Which kind of data came, and how it is read."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_dp.errors import NotPrivateError
from keras_dp.sampling.arrays import ArraySource, is_array
from keras_dp.sampling.base import Sampler
from keras_dp.sampling.examples import ExampleSource, has_positions
from keras_dp.sampling.preprocessing import (
    PROBED,
    Preprocess,
    Preprocessing,
    TransformedSource,
)
from keras_dp.sampling.py_dataset import PyDatasetSource
from keras_dp.sampling.rows import Rows
from keras_dp.sampling.source import Source
from keras_dp.sampling.stream import StreamSampler
from keras_dp.sampling.stream_source import StreamSource
from keras_dp.sampling.weights import weigh

REMEDIES = {
    "DataLoader": "Pass `loader.dataset`, or the data source of a Grain loader",
    "IterableDataset": "Pass a map-style dataset, with `__len__` and `__getitem__`",
    "IterDataset": "Pass the `grain.MapDataset` that it was made from, before `.batch` and "
    "`.to_iter_dataset`",
    "DatasetV2": "Pass NumPy arrays, a `tfds.data_source`, or a Grain data set",
}
"""What to pass in the place of a stream, by the name of one of its classes."""


def as_source(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    *,
    sampler: Sampler | None,
    steps_per_epoch: int | None = None,
    preprocess: Preprocess | None = None,
) -> Source:
    """Return a source for whatever `fit` takes as data.

    Args:
        x: Arrays or a structure of them, a `keras.utils.PyDataset`, data with `__len__` and
            `__getitem__` that give single examples, or a stream of batches.
        y: Targets, with arrays only.
        sample_weight: Weights of the examples, with arrays only.
        class_weight: Dict from class index to weight, in place of `sample_weight`.
        sampler: How the examples of an update are drawn, or `None` to take all.
        steps_per_epoch: Updates in an epoch of `fit`, for streams.
        preprocess: Function of raw rows that returns what the model takes, or `None`.

    Returns:
        The source. Its rows are those that the model is trained on.

    Raises:
        NotPrivateError: for data that cannot be read at random positions, if that is what the
            sampler needs.
        ValueError: for bad data, or arguments that do not go together.
    """
    transform = _transform(class_weight, preprocess)
    raw = preprocess is not None
    if is_stream(x):
        _check_alone(x, y, sample_weight)
        sampler = _checked_sampler(x, sampler)
        return StreamSource(
            x, sampler, steps_per_epoch=steps_per_epoch, transform=transform, raw=raw
        )
    if isinstance(sampler, StreamSampler):
        raise ValueError(
            f"{sampler!r} is for streams of batches. The data can be read at any position, so "
            "every update can draw its examples at random, which is more private for the same "
            f"noise: leave `sampling` out. Received: {type(x).__name__}."
        )
    if not raw and is_array(x):
        return ArraySource(x, y, sample_weight, class_weight)
    source = TransformedSource(as_reader(x, y, sample_weight, raw=raw), transform)
    if raw:  # examples from everywhere tell best whether preprocessing mixes them
        source.rows(np.unique(np.linspace(0, source.size - 1, PROBED).astype(np.int64)))
    return source


def as_reader(x: Any, y: Any = None, sample_weight: Any = None, *, raw: bool = False) -> Source:
    """Return a source that reads the data as they are, at any position.

    Args:
        x: As in `as_source`, but no stream.
        y: Targets, with arrays only.
        sample_weight: Weights of the examples, with arrays only.
        raw: Whether the rows will be preprocessed, so that texts are allowed.

    Raises:
        NotPrivateError: for data that cannot be read at any position.
        ValueError: for bad data, or targets beside a data set.
    """
    if isinstance(x, keras.utils.PyDataset):
        _check_alone(x, y, sample_weight)
        return PyDatasetSource(x, raw=raw)
    if gives_examples(x):
        _check_alone(x, y, sample_weight)
        return ExampleSource(x, raw=raw)
    return ArraySource(x, y, sample_weight, raw=raw)


def gives_examples(x: Any) -> bool:
    """Whether the data have a length and give one example for each position."""
    known = (str, bytes, Mapping, keras.utils.PyDataset)
    return has_positions(x) and not (is_array(x) or isinstance(x, known))


def is_stream(x: Any) -> bool:
    """Whether the data decide by themselves in which order their batches come."""
    if is_array(x) or isinstance(x, (str, bytes, keras.utils.PyDataset)):
        return False
    return not has_positions(x) and (isinstance(x, Iterable) or callable(x))


def _checked_sampler(x: Any, sampler: Sampler | None) -> StreamSampler:
    if isinstance(sampler, StreamSampler):
        return sampler
    names = [cls.__name__ for cls in type(x).__mro__]
    remedy = next((REMEDIES[name] for name in names if name in REMEDIES), None)
    raise NotPrivateError(
        "The training data must be read at any position, since every update draws its examples at "
        f"random. Received: {type(x).__name__}, a stream that decides by itself which examples "
        f"share a batch. {remedy or 'Pass NumPy arrays or a keras.utils.PyDataset'}, or an object "
        "with `__len__` and `__getitem__` that gives single examples. To train on the stream's own "
        "batches, accounted without amplification by sampling, `compile` with "
        "`sampling=keras_dp.sampling.Stream(dataset_size=...)`; with `PoissonStream(...)` if they "
        "are Poisson samples."
    )


def _check_alone(x: Any, y: Any, sample_weight: Any) -> None:
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise ValueError(
                f"`{name}` must be left out when `x` is a data set, which gives `(x, y)` or "
                f"`(x, y, sample_weight)` itself. Received `{name}` beside {type(x).__name__}."
            )


def _transform(
    class_weight: Mapping[int, float] | None, preprocess: Preprocess | None
) -> Callable[[Rows], Rows]:
    """Return what is done to rows that were read: preprocess, then weigh."""
    weighing = partial(weigh, class_weight=class_weight)
    if preprocess is None:
        return weighing
    preprocessing = Preprocessing(preprocess)
    return lambda rows: weighing(preprocessing(rows))
