"""How much memory a microbatch may take on Keras' device."""

from collections.abc import Callable
from typing import Any

import keras
import torch

from keras_dp.backend.memory import Memory, largest_fitting, of_examples, of_microbatch


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
    """Return the free memory of a CUDA device, with what PyTorch keeps for itself; else `None`."""
    device = keras.ops.zeros(()).device
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + kept)
