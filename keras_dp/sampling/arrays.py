"""Arrays, in memory or memory-mapped."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_dp.errors import NotPrivateError
from keras_dp.sampling.rows import NOT_NUMERIC, Rows, as_array, in_floatx, leaves, map_leaves
from keras_dp.sampling.source import Source
from keras_dp.sampling.weights import weigh
from keras_dp.types import Tree


class ArraySource(Source):
    """Arrays in memory or memory-mapped, read by position.

    Args:
        x: Input arrays: an array, or a nested list, tuple or dict of arrays.
        y: Target arrays, likewise, or `None`.
        sample_weight: Weights: one array, or for several outputs a structure like `y`.
        class_weight: Dict from class index to weight, in place of `sample_weight`.
        raw: Whether the rows will be preprocessed. Texts are allowed then, and a list is one
            array, as in KerasHub.

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
        *,
        raw: bool = False,
    ) -> None:
        self._raw = raw
        self.x = _to_arrays("x", x, raw)
        self.y = _to_arrays("y", y, raw)
        self.sample_weight = _to_arrays("sample_weight", sample_weight, raw)
        self.size = self._check_sizes()
        if not raw:
            _, _, self.sample_weight = weigh(self.data, class_weight)

    @property
    def data(self) -> Rows:
        """The arrays as `(x, y, sample_weight)`."""
        return self.x, self.y, self.sample_weight

    def rows(self, indices: npt.NDArray[np.int64]) -> Rows:
        """Return `(x, y, sample_weight)` at these positions."""
        x, y, weight = map_leaves(lambda a: in_floatx(np.asarray(a[indices])), self.data)
        return x, y, weight

    def split(self, fraction: float) -> tuple["ArraySource", Rows]:
        """Split off the last `fraction` of the examples, as Keras' `validation_split` does."""
        kept = int(self.size * (1.0 - fraction))
        if not 0 < kept < self.size:
            raise ValueError(
                f"`validation_split` must leave examples on both sides of {self.size}. "
                f"Received: validation_split={fraction!r}."
            )
        x, y, weight = map_leaves(lambda a: a[:kept], self.data)
        held_x, held_y, held_weight = map_leaves(lambda a: a[kept:], self.data)
        return ArraySource(x, y, weight, raw=self._raw), (held_x, held_y, held_weight)

    def _check_sizes(self) -> int:
        named = {
            name: sorted({len(leaf) for leaf in leaves(part)})
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


def _to_arrays(name: str, value: Tree, raw: bool) -> Tree:
    if not raw:
        return map_leaves(lambda leaf: _to_array(name, leaf), value)
    if isinstance(value, tuple):
        return tuple(_to_arrays(name, part, raw) for part in value)
    if isinstance(value, Mapping):
        return {key: _to_arrays(name, part, raw) for key, part in value.items()}
    return None if value is None else _to_raw_array(name, value)


def _to_raw_array(name: str, value: Any) -> npt.NDArray[Any]:
    array = as_array(f"`{name}`", value, raw=True)
    if array.ndim == 0:
        raise ValueError(
            f"`{name}` must have one row for each example. Received: {value!r}. Put it in a list."
        )
    return array


def _to_array(name: str, leaf: Any) -> npt.NDArray[Any]:
    if isinstance(leaf, (str, bytes, bool, int, float)):
        raise ValueError(
            f"`{name}` must be an array of examples. Received: {leaf!r}. Turn lists of numbers "
            "into NumPy arrays."
        )
    if not (hasattr(leaf, "shape") and hasattr(leaf, "__array__")):
        raise NotPrivateError(
            f"`{name}` must be data that can be read at any position, since every update draws its "
            f"examples at random. Received: {type(leaf).__name__}. Pass NumPy arrays, memory maps "
            "or tensors, a keras.utils.PyDataset, or an object with `__len__` and `__getitem__` "
            "that gives single examples."
        )
    array = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf)
    if array.ndim == 0 or array.dtype.kind in NOT_NUMERIC + "US":
        raise ValueError(
            f"`{name}` must be numeric with one row for each example. "
            f"Received shape {array.shape}, dtype {array.dtype}."
        )
    return array


def is_array(leaf: Any) -> bool:
    """Whether something is an array or a structure of them, and not a data set."""
    nested = keras.tree.is_nested(leaf) or leaf is None
    return nested or (hasattr(leaf, "shape") and hasattr(leaf, "__array__"))
