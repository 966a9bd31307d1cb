"""How much memory a microbatch may take."""

import os
from typing import NamedTuple

import jax

MIB = 2**20
CPU_PREFERRED = 32 * MIB
"""Temporary memory up to which CPUs train fastest: beyond it, it leaves the caches and is fetched
anew from the operating system in every step."""

ACCELERATOR_PART = 0.6
"""Part of an accelerator's free memory that a microbatch may take; the rest is for what the
estimate leaves out."""


class Memory(NamedTuple):
    """Memory for a microbatch, in bytes.

    Attributes:
        preferred: Up to here more examples at a time are faster.
        limit: What may be taken at most.
    """

    preferred: int
    limit: int


def microbatch_memory() -> Memory:
    """Return the memory for a microbatch on the default device."""
    device = jax.devices()[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    if stats and "bytes_limit" in stats:
        free = int(ACCELERATOR_PART * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
        return Memory(free, free)
    return Memory(CPU_PREFERRED, _physical_memory() // 4)


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return 8 * 1024 * MIB
