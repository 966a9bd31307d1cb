"""Training data that can be read at any position, which random draws need."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_dp.errors import NotPrivateError
from keras_dp.types import Tree


class ArraySource:
    """Arrays in memory or memory-mapped, read by position.

    Args:
        x: Input arrays: an array, or a nested list, tuple or dict of arrays.
        y: Target arrays, likewise, or `None`.
        sample_weight: Weights: one array, or for several outputs a structure like `y`.
        class_weight: Dict from class index to weight, in place of `sample_weight`.

    Raises:
        NotPrivateError: when the data are no arrays, so that no draw can be made from them.
        ValueError: when the data are empty or disagree in length, or when both kinds of weights
            are given.
    """

    def __init__(
        self,
        x: Tree,
        y: Tree = None,
        sample_weight: Tree = None,
        class_weight: Mapping[int, float] | None = None,
    ) -> None:
        self.x = _to_arrays("x", x)
        self.y = _to_arrays("y", y)
        self.sample_weight = _to_arrays("sample_weight", sample_weight)
        self.size = self._check_sizes()
        if class_weight is not None:
            self.sample_weight = self._weights_of_classes(class_weight)
        self.sample_weight = self._weights_of_outputs()

    def __len__(self) -> int:
        """Return the number of examples."""
        return self.size

    @property
    def data(self) -> tuple[Tree, Tree, Tree]:
        """The arrays as `(x, y, sample_weight)`."""
        return self.x, self.y, self.sample_weight

    def take(self, indices: npt.NDArray[np.int64]) -> tuple[Tree, Tree, Tree]:
        """Return `(x, y, sample_weight)` at these positions; floats in Keras' default precision."""
        x, y, sample_weight = (_map(lambda a: _read(a, indices), part) for part in self.data)
        return x, y, sample_weight

    def split(self, fraction: float) -> tuple["ArraySource", tuple[Tree, Tree, Tree]]:
        """Split off the last `fraction` of the examples, as Keras' `validation_split` does."""
        kept = int(self.size * (1.0 - fraction))
        if not 0 < kept < self.size:
            raise ValueError(
                f"`validation_split` must leave examples on both sides of {self.size}. "
                f"Received: validation_split={fraction!r}."
            )
        x, y, sample_weight = (_map(lambda a: a[:kept], part) for part in self.data)
        held_x, held_y, held_weight = (_map(lambda a: a[kept:], part) for part in self.data)
        return ArraySource(x, y, sample_weight), (held_x, held_y, held_weight)

    def _check_sizes(self) -> int:
        named = {
            name: sorted({len(leaf) for leaf in keras.tree.flatten(part) if leaf is not None})
            for name, part in zip(("x", "y", "sample_weight"), self.data, strict=True)
        }
        sizes = {size for found in named.values() for size in found}
        if len(sizes) > 1:
            listed = ", ".join(f"{name}: {found}" for name, found in named.items() if found)
            raise ValueError(
                f"All data arrays must have the same number of examples. Received {listed}."
            )
        if not sizes or sizes == {0}:
            raise ValueError("The training data must hold at least one example. Received none.")
        return sizes.pop()

    def _weights_of_classes(self, class_weight: Mapping[int, float]) -> npt.NDArray[Any]:
        if self.sample_weight is not None:
            raise ValueError("Pass `sample_weight` or `class_weight`, not both.")
        if self.y is None or keras.tree.is_nested(self.y):
            raise ValueError("`class_weight` works with one output and its targets `y` only.")
        labels = np.asarray(self.y)
        if labels.ndim > 1:
            labels = labels.argmax(-1) if labels.shape[-1] != 1 else labels[..., 0]
        classes, positions = np.unique(np.round(labels).astype(np.int64), return_inverse=True)
        weights = [class_weight.get(int(label), 1.0) for label in classes]
        return np.asarray(weights, keras.config.floatx())[positions]

    def _weights_of_outputs(self) -> Tree:
        """Give every output its own weights when there are several outputs and one array."""
        weights = self.sample_weight
        if weights is None or not keras.tree.is_nested(self.y) or keras.tree.is_nested(weights):
            return weights
        return keras.tree.map_structure(lambda _: weights, self.y)


def _to_arrays(name: str, value: Tree) -> Tree:
    return _map(lambda leaf: _to_array(name, leaf), value)


def _map(fn: Any, value: Tree) -> Tree:
    return keras.tree.map_structure(lambda leaf: None if leaf is None else fn(leaf), value)


def _to_array(name: str, leaf: Any) -> npt.NDArray[Any]:
    if isinstance(leaf, (str, bytes, bool, int, float)):
        raise ValueError(f"`{name}` must be an array of examples. Received: {leaf!r}.")
    if not (hasattr(leaf, "shape") and hasattr(leaf, "__array__")):
        raise NotPrivateError(
            f"`{name}` must be data that can be read at any position, since every update draws its "
            f"examples at random. Received: {type(leaf).__name__}. Pass NumPy arrays, memory maps, "
            "or tensors; a generator or `tf.data` pipeline decides the order by itself, so no "
            "amplification by sampling can be claimed for it."
        )
    array = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf)
    if array.ndim == 0 or array.dtype == object:
        raise ValueError(
            f"`{name}` must be numeric with one row for each example. "
            f"Received shape {array.shape}, dtype {array.dtype}."
        )
    return array


def _read(array: npt.NDArray[Any], indices: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    rows = np.asarray(array[indices])
    if np.issubdtype(rows.dtype, np.floating) and rows.dtype != keras.config.floatx():
        rows = rows.astype(keras.config.floatx())
    return rows
