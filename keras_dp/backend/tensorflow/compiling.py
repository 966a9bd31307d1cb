"""Compilation with TensorFlow, and optimizers that write to variables."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dp.sampling.rows import map_leaves
from keras_dp.types import Tree


def compile_function(
    function: Callable[..., Any], *, donate: tuple[int, ...] = (), eager: bool = False
) -> Callable[..., Any]:
    """Return the compiled function, or the function itself when `eager`.

    It is traced once for all arguments of the same shapes and types: numbers and NumPy arrays
    among them become tensors.

    Args:
        function: A pure function of nested tensors.
        donate: Positions of arguments whose memory the result may take over.
        eager: Whether to leave it uncompiled, for `run_eagerly`.
    """
    del donate
    called = function if eager else tf.function(function, autograph=False)
    return lambda *arguments: called(*map_leaves(_tensor, arguments))


def _tensor(leaf: Any) -> Any:
    return tf.convert_to_tensor(leaf) if isinstance(leaf, (np.ndarray, np.generic)) else leaf


def is_eager(model: Any) -> bool:
    """Whether a model is to be trained without compilation."""
    return bool(model.run_eagerly)


def wait(results: Tree) -> None:
    """Wait until the device has run what was asked of it; TensorFlow's calls wait themselves."""
    del results


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Multiply float32 matrices in float32 inside, where accelerators would take fewer bits."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def apply_gradients(
    optimizer: Any, optimizer_variables: list[Any], grads: list[Any], weights: list[Any]
) -> tuple[list[Any], list[Any]]:
    """Return the new weights and the new state of a Keras optimizer.

    Keras' optimizers for TensorFlow write to variables only: theirs are given these values, and get
    back what they had before.

    Args:
        optimizer: A `keras.optimizers.Optimizer` that is built.
        optimizer_variables: Values of its variables.
        grads: A gradient for each weight.
        weights: Values of the weights.
    """
    variables = [*optimizer._trainable_variables, *optimizer.variables]
    before = [tf.identity(variable.value) for variable in variables]
    try:
        _assign(variables, [*weights, *optimizer_variables])
        with tf.Graph().as_default():  # which no strategy has entered
            outside = tf.distribute.get_replica_context()
        with outside:  # the gradients are those of all replicas already
            optimizer.apply(grads)
        after = [tf.identity(variable.value) for variable in variables]
    finally:
        _assign(variables, before)
    return after[: len(weights)], after[len(weights) :]


def _assign(variables: list[Any], values: list[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
