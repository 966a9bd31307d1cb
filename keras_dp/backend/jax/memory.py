"""How much memory a microbatch may take."""

from collections.abc import Callable
from typing import Any

import jax

from keras_dp.backend.memory import (
    ACCELERATOR_PART,
    CPU_PREFERRED,
    EXAMPLES_PART,
    FEWEST_EXAMPLES,
    MIB,
    Memory,
    largest_fitting,
    physical_memory,
)

__all__ = ["FEWEST_EXAMPLES", "MIB", "Memory"]

MARGIN = 1.4
"""How far the memory of a compiled program may pass what its size was chosen for."""


def microbatch_memory() -> Memory:
    """Return the memory for a microbatch on the default device."""
    free = _free_memory()
    if free is None:
        return Memory(CPU_PREFERRED, physical_memory() // 4 // jax.local_device_count())
    return Memory(int(ACCELERATOR_PART * free), int(ACCELERATOR_PART * free))


def examples_memory() -> int:
    """Return how many bytes of examples may be on the default device at a time."""
    free = _free_memory()
    if free is None:
        return physical_memory() // 16 // jax.local_device_count()
    return int(EXAMPLES_PART * free)


def fitting_examples(bytes_per_example: float, views: int = 1) -> int:
    """Return how many examples a microbatch holds: the largest power of two that fits the memory.

    Args:
        bytes_per_example: Temporary memory that an example takes, with all its views.
        views: Number of augmented views of an example.
    """
    return largest_fitting(microbatch_memory(), bytes_per_example, views)


def corrected_size(size: int, function: Callable[..., Any], *arguments: Any, views: int = 1) -> int:
    """Return a size of microbatches, `size` or less, for which the compiled function fits.

    The function is compiled for these arguments now instead of in its first call. What XLA plans to
    use is taken at its word, and in proportion to the size.

    Args:
        size: Examples in a microbatch, chosen by an estimate.
        function: What `compile_function` returned; of an eager one nothing is known.
        arguments: What it is called with, at this size; only shapes are used.
        views: As for `fitting_examples`.
    """
    if not hasattr(function, "lower"):
        return size
    used = function.lower(*arguments).compile().memory_analysis()
    if used is None:  # a platform that does not tell
        return size
    return min(size, fitting_examples(used.temp_size_in_bytes / size / MARGIN, views))


def _free_memory() -> int | None:
    """Return the free memory of an accelerator; `None` on a CPU, and where it is not known."""
    device = jax.local_devices()[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        return None
    return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
