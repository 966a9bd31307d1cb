"""Data sets that give one example at a time: Grain, TFDS, PyTorch, and whatever looks like them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_dp import validation
from keras_dp.errors import NotPrivateError
from keras_dp.sampling.reading import in_threads
from keras_dp.sampling.rows import Layout, Rows, as_array, unpack
from keras_dp.sampling.source import Source
from keras_dp.types import Tree


class RandomAccess:
    """Data that give one example for each position, with a function applied to every example.

    `fit` takes such data as they are when an example is `(x,)`, `(x, y)` or `(x, y, weight)`.
    Wrap them when an example is something else, such as the dict that TFDS gives, or to decode,
    resize or augment it. A list of examples is wrapped too, since Keras takes a list for several
    inputs.

    Args:
        data: Object with `__len__` and `__getitem__`: a Grain data source or `grain.MapDataset`, a
            `tfds.data_source`, a map-style PyTorch dataset, a list. `__getitems__`, which takes a
            list of positions, is used where it exists.
        transform: Function of one example that returns `(x,)`, `(x, y)` or `(x, y, weight)`, each
            an array, a number, or a nested structure of these. `None` leaves examples as they are.
        workers: Number of threads that read and transform. More than one, for data that wait for
            a disk or are decoded, need data and a function that may be called from several
            threads. Default 1.

    Raises:
        NotPrivateError: when the data cannot be read at any position.
        ValueError: when `transform` is no function, or `workers` no number above 0.

    Privacy:
        The function sees one example at a time, so it cannot mix examples. What it computes must
        depend on nothing that was computed from other examples, such as a mean over the data.

    Example:
        >>> examples = [{"image": np.full((2, 2), i), "label": i % 3} for i in range(10)]
        >>> data = keras_dp.sampling.RandomAccess(
        ...     examples, transform=lambda e: (e["image"] / 255.0, e["label"])
        ... )
        >>> len(data)
        10
        >>> data[4][1]
        1
    """

    def __init__(
        self, data: Any, transform: Callable[[Any], Any] | None = None, *, workers: int = 1
    ) -> None:
        if not has_positions(data):
            raise NotPrivateError(
                "`data` must be read at any position, with `__len__` and `__getitem__`. Received: "
                f"{type(data).__name__}."
            )
        if transform is not None and not callable(transform):
            raise ValueError(f"`transform` must be a function or None. Received: {transform!r}.")
        self.data = data
        self.transform = transform
        self.workers = validation.positive_int("workers", workers)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.data)

    def __getitem__(self, position: int) -> Any:
        """Return one example, transformed."""
        example = self.data[position]
        return example if self.transform is None else self.transform(example)

    def __getitems__(self, positions: list[int]) -> list[Any]:
        """Return the examples at these positions, each transformed by itself."""
        examples = read(self.data, positions, self.workers)
        if self.transform is None:
            return examples
        return in_threads(self.transform, examples, self.workers)

    def __repr__(self) -> str:
        """Return the constructor call."""
        name = type(self.data).__name__
        workers = "" if self.workers == 1 else f", workers={self.workers}"
        return f"keras_dp.sampling.RandomAccess({name}, transform={self.transform!r}{workers})"


class ExampleSource(Source):
    """Reads data that give one example for each position.

    Args:
        data: Object with `__len__` and `__getitem__`, see `RandomAccess`.
        raw: Whether the rows will be preprocessed, so that texts are allowed.

    Raises:
        NotPrivateError: when the data give batches, or an example several times.
        ValueError: when the data are empty, or an example is not of the form `(x, y, weight)`.
    """

    def __init__(self, data: Any, *, raw: bool = False) -> None:
        _check_single(data)
        self._data = data
        self._raw = raw
        self.size = len(data)
        if self.size == 0:
            raise ValueError("The training data must hold at least one example. Received none.")
        (example,) = self._read([0])
        self._layout = Layout(example)

    def rows(self, indices: npt.NDArray[np.int64]) -> Rows:
        """Return `(x, y, sample_weight)` at these positions, each position read once."""
        if len(self._data) != self.size:
            raise ValueError(
                f"The number of examples must not change while training. It was {self.size} and "
                f"is {len(self._data)} now."
            )
        unique, places = np.unique(indices, return_inverse=True)
        positions = unique.tolist()
        names = [f"Example {position}" for position in positions]
        rows = self._layout.stack(self._read(positions), names)
        x, y, weight = keras.tree.map_structure(
            lambda leaf: None if leaf is None else leaf[places], rows
        )
        return x, y, weight

    def _read(self, positions: list[int]) -> list[Tree]:
        elements = read(self._data, positions) if positions else []
        return [
            _as_example(position, element, self._raw)
            for position, element in zip(positions, elements, strict=True)
        ]


def read(data: Any, positions: list[int], workers: int = 1) -> list[Any]:
    """Return what the data hold at these positions, which lie within their length.

    Args:
        data: Object with `__getitem__`, or `__getitems__`, which is called once.
        positions: Where to read.
        workers: Number of threads that call `__getitem__`.

    Raises:
        ValueError: when they give another number of examples, or none at one of the positions.
    """
    together = getattr(data, "__getitems__", None)
    if together is None:
        return in_threads(partial(_read_one, data), positions, workers)
    try:
        elements = together(positions)
    except IndexError as error:
        raise ValueError(_missing(data, f"one of the positions {positions[:8]}")) from error
    if len(elements) != len(positions):
        raise ValueError(
            f"`{type(data).__name__}.__getitems__` must give one example for each position. "
            f"Received {len(elements)} for {len(positions)} positions."
        )
    return list(elements)


def _read_one(data: Any, position: int) -> Any:
    try:
        return data[position]
    except IndexError as error:
        raise ValueError(_missing(data, f"position {position}")) from error


def _missing(data: Any, where: str) -> str:
    return (
        f"`{type(data).__name__}` must give an example for every position below its length, "
        f"{len(data)}. Received an IndexError for {where}. Make `__len__` and `__getitem__` agree."
    )


def _as_example(position: int, element: Any, raw: bool) -> Tree:
    parts = unpack(f"Example {position}", element)
    return tuple(
        keras.tree.map_structure(
            lambda leaf, name=name: (
                None if leaf is None else as_array(f"{name} of example {position}", leaf, raw=raw)
            ),
            part,
        )
        for name, part in zip(("`x`", "`y`", "`sample_weight`"), parts, strict=True)
    )


def has_positions(data: Any) -> bool:
    """Whether the data have a length and give something for each position."""
    # PyTorch's IterableDataset inherits a `__getitem__` that only raises.
    iterable = any(cls.__name__ == "IterableDataset" for cls in type(data).__mro__)
    return hasattr(data, "__len__") and hasattr(data, "__getitem__") and not iterable


def lost_by(data: Any) -> str | None:
    """Return the step, if any, after which a `grain.MapDataset` gives no single examples any more.

    Returns:
        `"batch"`, `"repeat"` or `None`.
    """
    waiting = [data]
    while waiting:
        stage = waiting.pop()
        name = type(stage).__name__
        for step in ("Batch", "Repeat"):
            if name.endswith("MapDataset") and step in name:
                return step.lower()
        parents = getattr(stage, "parents", None)
        waiting.extend(parents if isinstance(parents, Sequence) else ())
        waiting.extend([stage.data] if isinstance(stage, RandomAccess) else ())
    return None


def _check_single(data: Any) -> None:
    step = lost_by(data)
    if step is not None:
        raise NotPrivateError(
            "The data must give every example once, by itself, since `fit` draws the examples of "
            f"an update. Received a Grain data set with `.{step}(...)`. Leave `.{step}` out; state "
            "`batch_size` and `epochs` in `fit`."
        )
