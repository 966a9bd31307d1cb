"""Rows of examples as NumPy arrays, and what one example looks like."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_dp.types import Tree

Rows = tuple[Tree, Tree, Tree]
"""`(x, y, sample_weight)`, each a structure of arrays with a row for each example, or `None`."""

NOT_NUMERIC = "OMm"
"""NumPy's kinds of dtype that hold objects and dates."""


def map_leaves(fn: Callable[[Any], Any], value: Tree) -> Tree:
    """Apply `fn` to every array of a structure; what is `None` stays `None`."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else fn(leaf), value)


def leaves(value: Tree) -> list[Any]:
    """Return the arrays of a structure."""
    return [leaf for leaf in keras.tree.flatten(value) if leaf is not None]


def count(rows: Tree) -> int:
    """Return the number of examples."""
    return len(leaves(rows)[0])


def as_array(where: str, leaf: Any, *, raw: bool = False) -> npt.NDArray[Any]:
    """Return what a data source gave as an array, floats in Keras' default precision.

    Args:
        where: What it is, for errors.
        leaf: An array, a tensor of any library, a number or a text.
        raw: Whether texts are allowed, because they will be preprocessed.

    Raises:
        ValueError: for what is no numbers, or no texts where these are allowed.
    """
    array = np.asarray(leaf)
    if array.dtype.kind in "US":
        array = array.astype(object)
    if array.dtype.kind in NOT_NUMERIC and not (raw and _is_text(array)):
        raise ValueError(
            f"{where} must be {'numbers or texts' if raw else 'numbers'} in an array of one shape. "
            f"Received: {type(leaf).__name__} of dtype {array.dtype}. "
            f"{'Pad or resize it first.' if raw else 'Turn it into numbers of one shape first.'}"
        )
    return in_floatx(array)


def in_floatx(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array with floats in Keras' default precision."""
    floating = np.issubdtype(array.dtype, np.floating)
    return array.astype(keras.config.floatx(), copy=False) if floating else array


def unpack(where: str, element: Any) -> Rows:
    """Return `(x, y, sample_weight)` of what a data source gave for an example or a batch.

    Args:
        where: What it is, for errors.
        element: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        ValueError: for anything else: a dict does not say which part is the target.
    """
    if isinstance(element, dict):
        some = sorted(map(str, element))[:6]
        first, last = repr(some[0]) if some else "...", repr(some[-1]) if some else "..."
        raise ValueError(
            f"{where} must be `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Received a dict with "
            f"{', '.join(map(repr, some))}, which does not say which part is the target. Wrap the "
            "data: `keras_dp.sampling.RandomAccess(data, transform=lambda e: "
            f"(e[{first}], e[{last}]))`, or `.map(...)` the same function over a stream."
        )
    if element is None or (isinstance(element, (tuple, list)) and not 1 <= len(element) <= 3):
        raise ValueError(
            f"{where} must be `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Received: "
            f"{'None' if element is None else f'{len(element)} parts'}. Give every example by "
            "itself; leave examples out before `fit`, not by giving None."
        )
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
    return x, y, sample_weight


class Layout:
    """What one example looks like: its structure, and the shape and dtype of each part.

    It is learned from the first example. Every later one must look the same, because all of them
    go through one compiled step, and an example must not be told from others by its shape.

    Args:
        example: A structure of arrays without a batch axis.
    """

    def __init__(self, example: Tree) -> None:
        self._example = map_leaves(lambda a: _blank(a.shape, a.dtype), example)

    @classmethod
    def of_rows(cls, rows: Rows) -> "Layout":
        """Return the layout of one of these rows, of which there may be none."""
        return cls(map_leaves(lambda a: _blank(a.shape[1:], a.dtype), rows))

    def zeros(self, size: int) -> Rows:
        """Return `size` rows of zeros."""
        x, y, weight = map_leaves(
            lambda a: np.full((size, *a.shape), "" if a.dtype == object else 0, a.dtype),
            self._example,
        )
        return x, y, weight

    def stack(self, examples: Sequence[Tree], names: Sequence[str]) -> Rows:
        """Return the examples as rows.

        Args:
            examples: Structures of arrays without a batch axis.
            names: What each of them is, for errors.

        Raises:
            ValueError: when one of them has another layout.
        """
        if not examples:
            return self.zeros(0)
        for example, name in zip(examples, names, strict=True):
            self._check(example, name)
        x, y, weight = keras.tree.map_structure(
            lambda like, *parts: (
                None if like is None else np.stack(parts).astype(like.dtype, copy=False)
            ),
            self._example,
            *examples,
        )
        return x, y, weight

    def fitted(self, rows: Rows, name: str) -> Rows:
        """Return the rows in this layout's dtypes.

        Args:
            rows: Arrays with a row for each example.
            name: What they are, for errors.

        Raises:
            ValueError: when their rows have another layout.
        """
        self._check(Layout.of_rows(rows)._example, f"A row of {name}")
        x, y, weight = keras.tree.map_structure(
            lambda like, part: None if like is None else part.astype(like.dtype, copy=False),
            self._example,
            rows,
        )
        return x, y, weight

    def _check(self, example: Tree, name: str) -> None:
        if not self._matches(example):
            raise ValueError(
                f"{name} must look like the first example, {describe(self._example)}. Received: "
                f"{describe(example)}. Give all examples one structure and one shape: pad or crop "
                "sequences to one length, resize images to one size."
            )

    def _matches(self, example: Tree) -> bool:
        try:
            keras.tree.assert_same_structure(self._example, example)
        except (TypeError, ValueError):
            return False
        pairs = zip(keras.tree.flatten(self._example), keras.tree.flatten(example), strict=True)
        return all(
            (like is None) == (part is None)
            and (like is None or (like.shape == part.shape and _fits(part.dtype, like.dtype)))
            for like, part in pairs
        )


def describe(example: Tree) -> str:
    """Return the structure with dtype and shape in the place of each array."""
    shown = keras.tree.map_structure(
        lambda leaf: None if leaf is None else f"{leaf.dtype}{list(leaf.shape)}", example
    )
    return str(shown).replace("'", "")


def _is_text(array: npt.NDArray[Any]) -> bool:
    return all(isinstance(text, (str, bytes)) for text in array.flat)


def _fits(found: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    return found == wanted or (wanted.kind != "O" and np.can_cast(found, wanted, "same_kind"))


def _blank(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return an array that has a shape and a dtype and takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)
