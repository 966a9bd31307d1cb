"""The reference method: every example's gradient in full, by `jax.vmap`.

Slow and large, but short enough to be checked by eye: the oracle of every faster method.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from keras_dp.clip_rules.factors import Clip
from keras_dp.types import ClippedSum, Tree


def clipped_sum(
    loss_fn: Callable[[Tree, Tree], tuple[Any, Tree]],
    params: Tree,
    batch: Tree,
    mask: Any,
    clip: Clip,
) -> ClippedSum:
    """Clip each example's gradient and sum, see `keras_dp.clipping.clipped_sum`."""
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    (losses, aux), grads = jax.vmap(gradient, in_axes=(None, 0))(params, batch)
    leaves, structure = jax.tree.flatten(grads)
    leaves = [leaf.astype(jnp.float32) for leaf in leaves]
    squares = [jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for g in leaves]
    norms, factors = clip.apply(squares, mask)
    sums = [_weighted_sum(factor, leaf) for factor, leaf in zip(factors, leaves, strict=True)]
    return ClippedSum(jax.tree.unflatten(structure, sums), norms, losses, aux)


def _weighted_sum(factors: Any, grads: Any) -> Any:
    """Contract the batch axis; a factor of 0 removes an example even when its entries are NaN."""
    used = factors.reshape(factors.shape + (1,) * (grads.ndim - 1)) > 0
    return jnp.tensordot(factors, jnp.where(used, grads, 0.0), axes=1, precision="highest")
