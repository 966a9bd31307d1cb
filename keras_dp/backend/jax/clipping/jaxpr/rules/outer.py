"""Gradients that are sums of outer products over positions, as those of every matrix product.

`gradient_i = sum_t left_it right_it'`. Their norms follow from Gram matrices of the factors,
`|gradient_i|^2 = sum_st <left_is, left_it> <right_is, right_it>`, so a gradient is never written
out unless that is cheaper.

References:
    Goodfellow 2015, Efficient per-example gradient computations (one position).
    Li et al. 2021, Large language models can be strong differentially private learners (several).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from keras_dp.backend.jax.clipping.jaxpr import choose
from keras_dp.backend.jax.clipping.jaxpr.rules import norms
from keras_dp.backend.jax.clipping.jaxpr.rules.base import Cost, Factors, Gradients, Use, put_back
from keras_dp.backend.jax.clipping.jaxpr.sums import exact_einsum


@dataclass(frozen=True)
class OneHot:
    """Rows with a single 1, as an embedding's left factor.

    Attributes:
        ids: Integer array of shape `(batch, 1, positions)`; where the 1 is. An id that is no index
            of a row stands for a row of zeros.
        size: Length of a row.
    """

    ids: Any
    size: int


Factor = Any
"""An array of shape `(batch, blocks, positions, length)`, or `OneHot` with one block."""


@dataclass(frozen=True)
class Layout:
    """How the two factors make up the value: `shape.transpose(order)` is (blocks, left, right).

    Attributes:
        shape: Shape of the value.
        blocks: Axes on which the value is block diagonal, such as an einsum's batch axes.
        left: Axes of the left factor, in order.
        right: Axes of the right factor, in order.
    """

    shape: tuple[int, ...]
    blocks: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]

    def restore(self, blocked: Any) -> Any:
        """Turn an array of shape `(..., blocks, left, right)` into `(..., *shape)`."""
        order = (*self.blocks, *self.left, *self.right)
        leading = blocked.shape[: blocked.ndim - 3]
        split = blocked.reshape(*leading, *(self.shape[axis] for axis in order))
        return put_back(split, order)


@dataclass(frozen=True)
class Outer(Gradients):
    """Sums of outer products.

    Attributes:
        left: The factor that comes from what the site read.
        right: The factor that comes from the gradient that arrived.
        layout: How they make up the value.
    """

    left: Factor
    right: Any
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all gradients."""
        return (self.right.shape[0], *self.layout.shape)

    def change_rows(self, change: Callable[[Any], Any]) -> "Outer":
        """Change both factors."""
        one_hot = isinstance(self.left, OneHot)
        left = replace(self.left, ids=change(self.left.ids)) if one_hot else change(self.left)
        return replace(self, left=left, right=change(self.right))

    def full(self) -> Any:
        """Return every example's gradient."""
        return self._full

    def squared_norms(self) -> Any:
        """Return the squared norm of every example's gradient."""
        if self.way == "full":
            return self.norms_of_full()
        if self.way == "product":
            left = _valid(self.left)[..., None] if isinstance(self.left, OneHot) else self.left
            return norms.of_products(left[:, :, 0], self.right[:, :, 0])
        if self.way == "segments":
            return _segment_norms(self.left, self.right)
        if self.way == "equal ids":
            return _equal_id_norms(self.left, self.right)
        grams = gram(self.left, self.left), gram(self.right, self.right)
        return norms.from_grams(*grams, self.left.shape[-1], self.right.shape[-1])

    def weighted_sum(self, factors: Factors) -> Any:
        """Return the sum of the gradients, each multiplied with its factor."""
        if self.way == "full" and self.fits:
            return factors.contract(self._full)
        if isinstance(self.left, OneHot):
            rows = factors.scale(self.right).reshape(-1, self.right.shape[-1])
            zeros = jnp.zeros((self.left.size, rows.shape[-1]), jnp.float32)
            summed = zeros.at[self.left.ids.reshape(-1)].add(rows, mode="drop")[None]
            return self.layout.restore(summed)
        left, right = self.left, self.right
        on_left = left.shape[-1] <= right.shape[-1]  # the smaller one is scaled
        scaled = factors.scale(left if on_left else right)

        def product(other: Any) -> Any:
            return _contract(scaled, other) if on_left else _contract(other, scaled)

        # Only if an example is not finite, the other factor is copied without it.
        other = right if on_left else left
        summed = lax.cond(
            factors.clean, lambda: product(other), lambda: product(factors.keep(other))
        )
        return self.layout.restore(summed)

    @cached_property
    def way(self) -> str:
        """How the norms are computed."""
        _, _, positions, right = self.right.shape
        if positions == 1:
            return "product"
        if isinstance(self.left, OneHot):
            return "equal ids" if positions <= choose.LONG_SEQUENCE else "segments"
        cheaper = choose.writes_out(positions, self.left.shape[-1], right)
        return "full" if cheaper else "gram"

    @property
    def cost(self) -> Cost:
        """What the norms take."""
        batch, blocks, positions, right = self.right.shape
        one_hot = isinstance(self.left, OneHot)
        left = 1 if one_hot else self.left.shape[-1]
        each = batch * blocks
        flops = {
            "product": 2 * each * (left + right),
            "gram": 2 * each * positions**2 * (left + right),
            "equal ids": 2 * each * positions**2 * right,
            "segments": 4 * each * positions * right,
            "full": 2 * each * left * right,
        }[self.way]
        kept = 4 * each * left * right if self.way == "full" else 0
        working = 8 * each * positions**2 if self.way in ("gram", "equal ids") else 0
        return Cost(f"outer, {self.way}", flops, kept, working)

    @cached_property
    def _full(self) -> Any:
        if isinstance(self.left, OneHot):
            rows = jax.vmap(
                lambda ids, g: (
                    jnp.zeros((self.left.size, g.shape[-1]), jnp.float32)
                    .at[ids]
                    .add(g, mode="drop")
                )
            )(self.left.ids[:, 0], self.right[:, 0].astype(jnp.float32))
            return self.layout.restore(rows[:, None])
        return self.layout.restore(exact_einsum("bnpl,bnpr->bnlr", self.left, self.right))


def join(parts: list[Outer]) -> list[Outer]:
    """Put the uses of one weight that have the same layout together, as further positions."""
    groups: dict[tuple[Layout, bool], list[Outer]] = {}
    for part in parts:
        groups.setdefault((part.layout, isinstance(part.left, OneHot)), []).append(part)
    joined = []
    for (layout, one_hot), members in groups.items():
        right = jnp.concatenate([m.right for m in members], axis=2)
        if one_hot:
            ids = jnp.concatenate([m.left.ids for m in members], axis=2)
            joined.append(Outer(OneHot(ids, members[0].left.size), right, layout))
        else:
            joined.append(Outer(jnp.concatenate([m.left for m in members], 2), right, layout))
    return joined


def cross_products(a: Outer, b: Outer, *, swapped: bool) -> Any:
    """Return `<gradient of a, gradient of b>` for each example.

    Args:
        a: One use of a weight.
        b: Another use of it.
        swapped: Whether the left factor of one runs along the axes of the other's right factor.
    """
    others = (b.right, b.left) if swapped else (b.left, b.right)
    return jnp.sum(gram(a.left, others[0]) * gram(a.right, others[1]), axis=(1, 2, 3))


def gram(a: Factor, b: Factor) -> Any:
    """Return the inner products of all rows: shape `(batch, blocks, rows of a, rows of b)`."""
    if isinstance(a, OneHot) and isinstance(b, OneHot):
        same = a.ids[..., :, None] == b.ids[..., None, :]
        return (same & _valid(a)[..., :, None]).astype(jnp.float32)
    if isinstance(a, OneHot):
        picked = jnp.take_along_axis(b, jnp.clip(a.ids, 0, a.size - 1)[:, :, None, :], axis=3)
        return jnp.where(_valid(a)[..., :, None], picked.swapaxes(2, 3).astype(jnp.float32), 0.0)
    if isinstance(b, OneHot):
        return gram(b, a).swapaxes(2, 3)
    return exact_einsum("bnpl,bnql->bnpq", a, b)


def _valid(rows: OneHot) -> Any:
    return (rows.ids >= 0) & (rows.ids < rows.size)


def _equal_id_norms(left: OneHot, right: Any) -> Any:
    """Add up the rows of equal ids at each of these ids, then square and count each id once."""
    same = gram(left, left)
    sums = exact_einsum("bnpq,bnqr->bnpr", same, right.astype(jnp.float32))
    times = jnp.maximum(jnp.sum(same, axis=-1), 1.0)
    valid = _valid(left).astype(jnp.float32)
    return jnp.sum(jnp.sum(jnp.square(sums), axis=-1) * valid / times, axis=(1, 2))


def _segment_norms(left: OneHot, right: Any) -> Any:
    """Add up the rows of equal ids, then square: no matrix of positions by positions."""

    def one(ids: Any, rows: Any) -> Any:
        order = jnp.argsort(ids)
        ids, rows = ids[order], rows[order].astype(jnp.float32)
        starts = jnp.concatenate([jnp.zeros(1, bool), ids[1:] != ids[:-1]])
        sums = jax.ops.segment_sum(
            rows, jnp.cumsum(starts), num_segments=len(ids), indices_are_sorted=True
        )
        return jnp.sum(jnp.square(sums))

    valid = _valid(left)[..., None]
    return jax.vmap(one)(left.ids[:, 0], jnp.where(valid, right, 0)[:, 0])


def _contract(left: Any, right: Any) -> Any:
    return exact_einsum("bnpl,bnpr->nlr", left.astype(jnp.float32), right.astype(jnp.float32))


def dense(use: Use) -> Outer | None:
    """Take a matrix product, einsum or any other `dot_general` of weight and data apart."""
    (c0, c1), (b0, b1) = use.equation.params["dimension_numbers"]
    weight_first = use.equation.inputs[0] is use.weight
    other = use.equation.inputs[1 if weight_first else 0]
    if other not in use.data:
        return None
    contracted, blocks, x_contracted, x_blocks = (
        (c0, b0, c1, b1) if weight_first else (c1, b1, c0, b0)
    )
    shape = use.weight.shape
    free = tuple(i for i in range(len(shape)) if i not in (*contracted, *blocks))
    left = _blocked(use.data[other], x_blocks, x_contracted)
    g = use.cotangents[0]
    ahead = len(blocks)
    x_free = len(other.shape) - len(x_contracted) - ahead
    axes = range(ahead, len(use.equation.outputs[0].shape))
    own = tuple(axes[: len(free)]) if weight_first else tuple(axes[x_free:])
    right = _blocked(g, tuple(range(ahead)), own)
    return Outer(left, right, Layout(shape, tuple(blocks), tuple(contracted), free))


def _blocked(rows: Any, blocks: tuple[int, ...], last: tuple[int, ...]) -> Any:
    """Reshape `(batch, turns, ...)` to `(batch, blocks, positions, last)`."""
    shape = rows.shape[2:]
    free = [i for i in range(len(shape)) if i not in (*blocks, *last)]
    order = [0, *(b + 2 for b in blocks), 1, *(f + 2 for f in free), *(a + 2 for a in last)]
    size = [math.prod(shape[i] for i in part) for part in (blocks, last)]
    return rows.transpose(order).reshape(rows.shape[0], size[0], -1, size[1])
