"""Squared norms that are never too small: a norm that is would let its example pass the clip."""

from typing import Any

import jax.numpy as jnp
from jax import lax

CANCELLED = 1e-4
"""Part of the squares of its terms below which a squared norm is no longer trusted."""

ROUNDING = 4e-7
"""Bound on the rounding error of a squared norm, relative to the squares of its terms."""

TINY, HUGE = 1e-30, 1e15
"""Where one factor's square is below the first and the other's above the second, float32 cannot
square them apart. Otherwise what is lost to underflow is below `sqrt(TINY * HUGE)`, 3e-8."""


def of_rows(rows: Any) -> Any:
    """Return `|row_i|^2` over all axes but the first."""
    return jnp.sum(jnp.square(rows), axis=tuple(range(1, rows.ndim)))


def of_product(left: Any, right: Any) -> Any:
    """Return `|left|^2 |right|^2` over the last axis, each scaled to 1 before it is squared."""
    size, squares = _scaled(left)
    other_size, other_squares = _scaled(right)
    return jnp.square(size * other_size) * (squares * other_squares)


def from_grams(
    left: Any, right: Any, left_rows: tuple[Any, ...], right_rows: tuple[Any, ...]
) -> Any:
    """Return squared norms of sums of outer products from the Gram matrices of both factors.

    Where an example's products nearly cancel, or its factors are so small and so large that their
    squares cannot be told from 0 and infinity, the Gram matrices do not know the norm. An upper
    bound then takes its place.

    Args:
        left: Gram matrices of the left factors, `(batch, blocks, positions, positions)`.
        right: Those of the right factors.
        left_rows: Arrays with a leading batch axis whose norms, multiplied, bound the left factor;
            none when it holds ones and zeros.
        right_rows: The same for the right factor.
    """
    total = jnp.sum(left * right, axis=(1, 2, 3))
    diagonals = [jnp.diagonal(matrix, axis1=2, axis2=3) for matrix in (left, right)]
    apart = jnp.sum(jnp.sqrt(diagonals[0]) * jnp.sqrt(diagonals[1]), axis=(1, 2))
    traces = [jnp.sum(diagonal, axis=(1, 2)) for diagonal in diagonals]
    lost = (jnp.minimum(*traces) < TINY) & ~(jnp.maximum(*traces) < HUGE)
    lost |= ~jnp.isfinite(total)
    bound = lax.cond(
        jnp.any(lost),
        lambda: _frobenius_bound((*left_rows, *right_rows), total),
        lambda: jnp.zeros_like(total),
    )
    return jnp.where(lost, bound, guarded(total, jnp.square(apart)))


def guarded(total: Any, apart: Any) -> Any:
    """Return squared norms that came from a sum with cancellation, never too small.

    Args:
        total: The squared norms as computed.
        apart: What they would be if nothing had cancelled.
    """
    return jnp.where(total < CANCELLED * apart, jnp.abs(total) + ROUNDING * apart, total)


def _frobenius_bound(factors: tuple[Any, ...], like: Any) -> Any:
    size, squares = jnp.ones_like(like), jnp.ones_like(like)
    for factor in factors:
        largest, rest = _scaled(factor.reshape(factor.shape[0], -1))
        size, squares = size * largest, squares * rest
    return jnp.square(size) * squares


def _scaled(rows: Any) -> tuple[Any, Any]:
    """Return the largest entry of each row, and the row's square after division by it."""
    rows = rows.astype(jnp.float32)
    largest = jnp.max(jnp.abs(rows), axis=-1)
    safe = jnp.where(largest > 0, largest, 1.0)
    return largest, jnp.sum(jnp.square(rows / safe[..., None]), axis=-1)
