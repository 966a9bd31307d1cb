"""Weights of examples: of classes, and of several outputs."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_dp.sampling.rows import Rows, count
from keras_dp.types import Tree


def weigh(rows: Rows, class_weight: Mapping[int, float] | None) -> Rows:
    """Return the rows with a weight for each example and output, where there are weights.

    Args:
        rows: `(x, y, sample_weight)`.
        class_weight: Dict from class index to weight, in place of `sample_weight`.

    Raises:
        ValueError: when both kinds of weights are given, when classes cannot be told from `y`, or
            when the weights do not fit several outputs.
    """
    x, y, sample_weight = rows
    if class_weight is not None:
        if sample_weight is not None:
            raise ValueError("Pass `sample_weight` or `class_weight`, not both.")
        sample_weight = _weights_of_classes(y, class_weight)
    return x, y, _weights_of_outputs(sample_weight, y)


def _weights_of_classes(y: Tree, class_weight: Mapping[int, float]) -> npt.NDArray[Any]:
    if y is None or keras.tree.is_nested(y):
        raise ValueError("`class_weight` works with one output and its targets `y` only.")
    labels = np.asarray(y)
    if labels.ndim > 1:
        labels = labels.argmax(-1) if labels.shape[-1] != 1 else labels[..., 0]
    if labels.ndim > 1:
        raise ValueError(
            "`class_weight` needs one class for each example. Received targets of shape "
            f"{np.shape(y)}. Give every position its weight with `sample_weight`."
        )
    classes, positions = np.unique(np.round(labels).astype(np.int64), return_inverse=True)
    weights = [class_weight.get(int(label), 1.0) for label in classes]
    return np.asarray(weights, keras.config.floatx())[positions]


def _weights_of_outputs(weights: Tree, y: Tree) -> Tree:
    """Give every output its own weights when there are several outputs and one array."""
    if weights is None or not keras.tree.is_nested(y):
        return weights
    if keras.tree.is_nested(weights):
        return _checked_structure(weights, y)
    if weights.ndim > 1 and weights.shape != (count(weights), 1):
        raise ValueError(
            "One `sample_weight` array for several outputs must have one number for each example. "
            f"Received shape {weights.shape}. For weights of positions pass one array for each "
            "output, in the structure of `y`."
        )
    return keras.tree.map_structure(lambda _: weights, y)


def _checked_structure(weights: Tree, y: Tree) -> Tree:
    try:
        keras.tree.assert_same_structure(y, weights)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`sample_weight` must be one array, or have the structure of `y` with an array or None "
            f"for each output. Received {_outline(weights)} for y {_outline(y)}."
        ) from error
    return weights


def _outline(value: Tree) -> str:
    return str(keras.tree.map_structure(lambda leaf: leaf is not None, value)).replace("True", "..")
