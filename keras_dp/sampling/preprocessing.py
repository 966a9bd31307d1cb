"""Preprocessing of drawn rows on the host, such as a KerasHub task's tokenizer."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_dp.sampling.rows import Layout, Rows, as_array, count, leaves, map_leaves
from keras_dp.sampling.source import Source
from keras_dp.types import Tree

PROBED = 8
"""Examples with which it is found out whether preprocessing takes them one by one."""

Preprocess = Callable[..., Any]
"""`preprocess(x, y, sample_weight)` of a batch, returning `x`, `(x, y)` or `(x, y, weight)`."""


class Preprocessing:
    """Applies a function of batches to rows, so that no row depends on another.

    The first rows show whether a row comes out the same in company as alone. If so, the function is
    called for many rows at once; if not, because it draws random numbers or mixes rows, it is
    called for one example at a time.

    Args:
        function: Such as the `preprocess_samples` of a KerasHub task.

    Privacy:
        What is computed for an example must not depend on other examples, or the clip norm would
        not bound its share. One example at a time is sure; many at once is taken only where the
        probe saw no difference.
    """

    def __init__(self, function: Preprocess) -> None:
        self._function = function
        self._together: bool | None = None
        self._layout: Layout | None = None

    def __call__(self, rows: Rows) -> Rows:
        """Return the preprocessed rows."""
        size = count(rows)
        if self._together is None and size > 1:
            self._together = self._probe(rows)
        if size == 0 and self._layout is not None:
            return self._layout.zeros(0)
        done = apply(self._function, rows) if self._together else self._one_by_one(rows)
        if self._layout is None:
            self._layout = Layout.of_rows(done)
        return self._layout.fitted(done, "the preprocessed data")

    def _one_by_one(self, rows: Rows) -> Rows:
        alone = [self._alone(rows, i) for i in range(count(rows))] or [apply(self._function, rows)]
        layout = self._layout or Layout.of_rows(alone[0])
        fitted = [layout.fitted(row, "the preprocessed data") for row in alone]
        x, y, weight = keras.tree.map_structure(
            lambda *parts: None if parts[0] is None else np.concatenate(parts), *fitted
        )
        return x, y, weight

    def _alone(self, rows: Rows, position: int) -> Rows:
        return apply(self._function, select(rows, np.array([position])))

    def _probe(self, rows: Rows) -> bool:
        """Find out whether rows come out the same in company as alone, in two orders."""
        some = select(rows, np.arange(min(PROBED, count(rows))))
        alone = self._one_by_one(some)
        backwards = np.arange(count(some))[::-1]
        together = self._is_same(some, alone) and self._is_same(
            select(some, backwards), select(alone, backwards)
        )
        if not together:
            warnings.warn(
                "The preprocessing gives a row other values in a batch than alone: it draws random "
                "numbers, or it mixes rows. It is therefore applied to one example at a time, "
                "which is slower. Augment inside the model, or give the preprocessing no "
                "randomness, for speed.",
                stacklevel=2,
            )
        return together

    def _is_same(self, rows: Rows, alone: Rows) -> bool:
        try:
            found = Layout.of_rows(alone).fitted(apply(self._function, rows), "a batch")
        except ValueError:  # other shapes in company than alone, such as padding to the longest
            return False
        pairs = zip(leaves(found), leaves(alone), strict=True)
        return all(a.shape == b.shape and np.allclose(a, b, 1e-5, 1e-6, True) for a, b in pairs)


class TransformedSource(Source):
    """Another source with a function applied to the rows that were read.

    Args:
        source: What reads the rows.
        transform: Function of rows: preprocessing, weights of classes.
    """

    def __init__(self, source: Source, transform: Callable[[Rows], Rows]) -> None:
        self._source = source
        self._transform = transform
        self.size = source.size
        self.batch_size = source.batch_size

    def rows(self, indices: npt.NDArray[np.int64]) -> Rows:
        """Return the transformed rows at these positions."""
        return self._transform(self._source.rows(indices))

    def arrange(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the positions in the order in which the other source reads them best."""
        return self._source.arrange(indices)

    def split(self, fraction: float) -> tuple[Source, Rows]:
        """Split the other source; the rows that are split off are not transformed."""
        source, held = self._source.split(fraction)
        return TransformedSource(source, self._transform), held


def apply(function: Preprocess, rows: Rows) -> Rows:
    """Preprocess a batch and return arrays.

    Raises:
        ValueError: when it gives another number of rows, or something that is no numbers.
    """
    x, y, weight = (_as_python(part) for part in rows)
    done = keras.utils.unpack_x_y_sample_weight(function(x, y, weight))
    x, y, weight = map_leaves(lambda a: as_array("The preprocessed data", a), done)
    shapes = [a.shape for a in leaves((x, y, weight))]
    if any(shape[:1] != (count(rows),) for shape in shapes):
        raise ValueError(
            "The preprocessing must give one row for each example. Received shapes "
            f"{', '.join(map(str, shapes))} for {count(rows)} examples."
        )
    return x, y, weight


def select(rows: Rows, positions: npt.NDArray[np.int64]) -> Rows:
    """Return some of the rows."""
    x, y, weight = map_leaves(lambda a: a[positions], rows)
    return x, y, weight


def _as_python(part: Tree) -> Tree:
    """Return arrays of texts as lists of `str`, which tokenizers take."""
    if isinstance(part, (tuple, list)):
        return tuple(_as_python(element) for element in part)
    if isinstance(part, Mapping):
        return {key: _as_python(element) for key, element in part.items()}
    return _decoded(part.tolist()) if part is not None and part.dtype == object else part


def _decoded(text: Any) -> Any:
    if isinstance(text, list):
        return [_decoded(element) for element in text]
    return text.decode("utf-8") if isinstance(text, bytes) else text
