"""Work with gradients that do not fit memory: a slice of the batch at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from keras_dp.backend.jax.clipping.jaxpr import choose

Compute = Callable[[Any, int], Any]
"""From the first example of a slice and the number of its examples, a tree of arrays."""


def at_once(batch: int, numbers: int) -> int:
    """Return of how many examples gradients of so many numbers each are written out at a time."""
    most = max(1, min(batch, choose.WRITTEN_OUT_BYTES // (4 * max(1, numbers))))
    return -(-batch // -(-batch // most))


def fit(batch: int, numbers: int) -> bool:
    """Whether the gradients of all examples may be written out and kept."""
    return at_once(batch, numbers) >= batch


def take(rows: Any, start: Any, size: int) -> Any:
    """Return `size` rows from `start` on."""
    return rows if size == len(rows) else lax.dynamic_slice_in_dim(rows, start, size)


def join(compute: Compute, batch: int, numbers: int) -> Any:
    """Return what is computed of every slice, side by side along the first axis.

    Args:
        compute: The computation; it is called once, for the whole batch, if that fits.
        batch: Number of examples.
        numbers: How many numbers are written out for each of them.
    """
    if fit(batch, numbers):
        return compute(0, batch)
    step = at_once(batch, numbers)
    whole, rest = divmod(batch, step)
    turns = lax.map(lambda turn: compute(turn * step, step), jnp.arange(whole))
    joined = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), turns)
    if not rest:
        return joined
    last = compute(whole * step, rest)
    return jax.tree.map(lambda *both: jnp.concatenate(both), joined, last)


def add(compute: Compute, batch: int, numbers: int) -> Any:
    """Return the sum over all slices of what is computed of each; arguments as for `join`."""
    if fit(batch, numbers):
        return compute(0, batch)
    step = at_once(batch, numbers)
    whole, rest = divmod(batch, step)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: compute(0, step)))

    def turn(i: Any, sums: Any) -> Any:
        return jax.tree.map(jnp.add, sums, compute(i * step, step))

    sums = lax.fori_loop(0, whole, turn, zeros)
    return sums if not rest else jax.tree.map(jnp.add, sums, compute(whole * step, rest))
