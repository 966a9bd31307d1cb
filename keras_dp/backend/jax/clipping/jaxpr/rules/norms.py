"""Squared norms that are never too small: a norm that is would let its example pass the clip."""

from typing import Any

import jax.numpy as jnp

CANCELLED = 1e-4
"""Part of the squares of its terms below which a squared norm is no longer trusted."""

ROUNDING = 4e-7
"""Bound on the rounding error of a squared norm, relative to the squares of its terms."""

UNDERFLOW = 2.4e-38
"""Bound on what is lost when a product underflows in float32, twice for products of two uses."""


def of_rows(rows: Any) -> Any:
    """Return `|row_i|^2` over all axes but the first."""
    return jnp.sum(jnp.square(rows), axis=tuple(range(1, rows.ndim)))


def of_products(left: Any, right: Any) -> Any:
    """Return `|left|^2 |right|^2`, the factors along the last axis, summed over blocks.

    Args:
        left: Array of shape `(batch, blocks, length)`.
        right: Another one, of any other length.
    """
    squares = [
        jnp.sum(jnp.square(rows.astype(jnp.float32)), axis=-1) + UNDERFLOW * rows.shape[-1]
        for rows in (left, right)
    ]
    return jnp.sum(squares[0] * squares[1], axis=1)


def from_grams(left: Any, right: Any, left_length: int, right_length: int) -> Any:
    """Return squared norms of sums of outer products from the Gram matrices of both factors.

    Args:
        left: Gram matrices of the left factors, `(batch, blocks, positions, positions)`.
        right: Those of the right factors.
        left_length: How many products an entry of `left` adds up.
        right_length: The same for `right`.
    """
    total = jnp.sum(left * right, axis=(1, 2, 3))
    diagonals = [jnp.diagonal(matrix, axis1=2, axis2=3) for matrix in (left, right)]
    apart = jnp.sum(jnp.sqrt(diagonals[0]) * jnp.sqrt(diagonals[1]), axis=(1, 2))
    traces = [jnp.sum(diagonal, axis=(1, 2)) for diagonal in diagonals]
    lost = UNDERFLOW * left.shape[-1]  # |R_st| <= (R_ss + R_tt) / 2
    lost_each = lost * left_length * traces[1] + lost * right_length * traces[0]
    return guarded(total, jnp.square(apart)) + lost_each


def guarded(total: Any, apart: Any) -> Any:
    """Return squared norms that came from a sum with cancellation, never too small.

    Args:
        total: The squared norms as computed.
        apart: What they would be if nothing had cancelled.
    """
    return jnp.where(total < CANCELLED * apart, jnp.abs(total) + ROUNDING * apart, total)
