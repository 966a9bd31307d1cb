"""The reference method: every example's gradient in full, by `jax.vmap`.

Slow and large, but short enough to be checked by eye: the oracle of every faster method.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from keras_dp.clipping.rules import ClipRule
from keras_dp.types import ClippedSum, Tree


def clipped_sum(
    loss_fn: Callable[[Tree, Tree], tuple[Any, Tree]],
    params: Tree,
    batch: Tree,
    mask: Any,
    clip_norm: Any,
    rule: ClipRule,
) -> ClippedSum:
    """Clip each example's gradient and sum, see `keras_dp.clipping.clipped_sum`."""
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    (losses, aux), grads = jax.vmap(gradient, in_axes=(None, 0))(params, batch)
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    norms = example_norms(grads, mask.shape)
    weights = example_weights(norms, mask, clip_norm, rule)
    sums = jax.tree.map(lambda g: _weighted_sum(weights, g), grads)
    return ClippedSum(sums, norms, losses, aux)


def example_norms(grads: Tree, shape: tuple[int, ...]) -> Any:
    """Return each example's L2 norm over all leaves; leaves have a leading batch axis."""
    squares = [jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for g in jax.tree.leaves(grads)]
    return jnp.sqrt(sum(squares, start=jnp.zeros(shape, jnp.float32)))


def example_weights(norms: Any, mask: Any, clip_norm: Any, rule: ClipRule) -> Any:
    """Return the factor of each example in the sum; 0 for masked and non-finite examples.

    A NaN or infinite gradient counts as nothing *inside* the clip. Repairing the noisy sum
    afterwards instead would erase the noise with it.
    """
    safe = jnp.where(jnp.isfinite(norms), norms, 0.0)
    return jnp.where(jnp.isfinite(norms) & (mask > 0), rule(safe, clip_norm), 0.0)


def _weighted_sum(weights: Any, grads: Any) -> Any:
    """Contract the batch axis; a weight of 0 removes an example even when its entries are NaN."""
    used = weights.reshape(weights.shape + (1,) * (grads.ndim - 1)) > 0
    return jnp.tensordot(weights, jnp.where(used, grads, 0.0), axes=1)
