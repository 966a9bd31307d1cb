"""How much memory a microbatch may take, whichever library computes it."""

import os
from typing import NamedTuple

MIB = 2**20
CPU_PREFERRED = 32 * MIB
"""Temporary memory up to which CPUs train fastest: beyond it, it leaves the caches and is fetched
anew from the operating system in every step."""

ACCELERATOR_PART = 0.6
"""Part of an accelerator's free memory that a microbatch may take; the rest is for what the
estimate leaves out, and for the data of the examples."""

EXAMPLES_PART = 0.1
"""Part of an accelerator's free memory that the data of examples may take."""

FEWEST_EXAMPLES = 32
"""Examples in a microbatch for which more memory than preferred is taken: with fewer, matrix
products are slow."""


class Memory(NamedTuple):
    """Memory for a microbatch, in bytes.

    Attributes:
        preferred: Up to here more examples at a time are faster.
        limit: What may be taken at most.
    """

    preferred: int
    limit: int


def of_microbatch(free: int | None) -> Memory:
    """Return the memory for a microbatch.

    Args:
        free: Free memory of an accelerator in bytes; `None` for a CPU.
    """
    if free is None:
        return Memory(CPU_PREFERRED, physical_memory() // 4)
    return Memory(int(ACCELERATOR_PART * free), int(ACCELERATOR_PART * free))


def of_examples(free: int | None) -> int:
    """Return how many bytes of examples may be on the device at a time.

    Args:
        free: As for `of_microbatch`.
    """
    return physical_memory() // 16 if free is None else int(EXAMPLES_PART * free)


def largest_fitting(memory: Memory, bytes_per_example: float, views: int = 1) -> int:
    """Return how many examples a microbatch holds: the largest power of two that fits the memory.

    Args:
        memory: Memory for a microbatch.
        bytes_per_example: Temporary memory that an example takes, with all its views.
        views: Number of augmented views of an example.
    """
    fewest = max(1, FEWEST_EXAMPLES // views)
    preferred, limit = (max(1, int(part / max(1.0, bytes_per_example))) for part in memory)
    return 1 << (max(preferred, min(fewest, limit)).bit_length() - 1)


def physical_memory() -> int:
    """Return the bytes of memory that the machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return 8 * 1024 * MIB
