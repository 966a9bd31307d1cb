"""The loop over microbatches on the host."""

from collections.abc import Callable
from typing import Any

from keras_dp.sampling.rows import map_leaves
from keras_dp.types import Tree


def loops_on_device() -> bool:
    """Whether the loop over microbatches belongs inside the compiled step: here it never does."""
    return False


def repeat(count: Any, body: Callable[[Any, Tree], Tree], initial: Tree) -> Tree:
    """Apply `body(i, carry)` for i in `range(count)`."""
    carry = initial
    for i in range(int(count)):
        carry = body(i, carry)
    return carry


def microbatch_at(batch: Tree, position: Any) -> Tree:
    """Return column `position` of a batch whose leaves have shape `(size, count, ...)`.

    Args:
        batch: Tree of arrays.
        position: Index of the microbatch.
    """
    return map_leaves(lambda rows: rows[:, position], batch)
