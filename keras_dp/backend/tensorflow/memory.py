"""How much memory a microbatch may take on TensorFlow's device."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_dp.backend.memory import Memory, largest_fitting, of_examples, of_microbatch

LEAST_GPU = 2**32
"""Bytes of memory that every GPU is taken to have free."""


def microbatch_memory() -> Memory:
    """Return the memory for a microbatch on the default device."""
    return of_microbatch(_free_memory())


def examples_memory() -> int:
    """Return how many bytes of examples may be on the default device at a time."""
    return of_examples(_free_memory())


def fitting_examples(bytes_per_example: float, views: int = 1) -> int:
    """Return how many examples a microbatch holds: the largest power of two that fits the memory.

    Args:
        bytes_per_example: Temporary memory that an example takes, with all its views.
        views: Number of augmented views of an example.
    """
    return largest_fitting(microbatch_memory(), bytes_per_example, views)


def corrected_size(size: int, function: Callable[..., Any], *arguments: Any, views: int = 1) -> int:
    """Return `size`: there is no compiled program that would tell what memory it takes.

    Args:
        size: Examples in a microbatch, chosen by an estimate.
        function: What `compile_function` returned.
        arguments: What it is called with.
        views: As for `fitting_examples`.
    """
    del function, arguments, views
    return size


def _free_memory() -> int | None:
    """Return what is taken for the free memory of a GPU, which TensorFlow does not tell."""
    return LEAST_GPU if tf.config.list_logical_devices("GPU") else None
