"""Float16 gradients: every example's loss multiplied with a scale that is its own.

float16 ends at 65,504 and loses precision below 6e-5, so the backward pass starts from the loss
times a scale, and norms and factors are divided by it, in float32, before anything is clipped.

Privacy:
    The usual dynamic scale halves for all examples after an update in which any gradient
    overflowed, and that update is skipped. Here it would be a leak: one example decides whether an
    update is made, and by which scale, hence with which rounding, all others are summed
    afterwards, so that they move as well and no clip norm bounds the change. Instead an example
    whose gradient overflows is tried again with a smaller scale, and the others with theirs, by
    the same program. What an example adds depends on the weights and on itself alone, and no
    update is skipped.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from keras_dp.clip_rules.factors import Clip
from keras_dp.types import ClippedSum, Tree

STEP = 2.0**8
"""What a scale is divided by when its example's gradient overflows. A power of two: exact."""

TRIES = 3
"""How often an example is tried; what overflows every time adds nothing, as NaN adds nothing."""

LossFunction = Callable[[Tree, Tree], tuple[Any, Tree]]
Compute = Callable[[LossFunction, Tree, Tree, Any, Clip], ClippedSum]


def with_loss_scale(compute: Compute, first: float) -> Compute:
    """Make a clip method that scales every example's loss, and whose result is free of the scale.

    Args:
        compute: A clip method.
        first: The scale that every example is tried with first.
    """

    def clipped_sum(
        loss_fn: LossFunction, params: Tree, batch: Tree, mask: Any, clip: Clip
    ) -> ClippedSum:
        @jax.jit
        def attempt(scales: Any) -> ClippedSum:
            rows = {"example": batch, "scale": scales}
            scaled = replace(clip, scales=scales)
            result = compute(_scaled(loss_fn), params, rows, mask, scaled)
            losses, aux = result.aux
            return result._replace(losses=losses, aux=aux)

        def turn(carry: tuple[Any, Any, ClippedSum]) -> tuple[Any, Any, ClippedSum]:
            scales, again, _ = carry
            scales = jnp.where(again, scales / STEP, scales)
            result = attempt(scales)
            hopeful = (mask > 0) & jnp.isfinite(result.losses) & (scales > last)
            return scales, hopeful & ~jnp.isfinite(result.norms), result

        last = first / STEP ** (TRIES - 1)
        scales = jnp.full(mask.shape, first * STEP, jnp.float32)
        empty = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(attempt, scales))
        # One program for every try: an example that is tried again beside another that overflowed
        # must come to the same result, bit for bit, as if the other was not there.
        # tests/backend/jax/clipping/test_loss_scale.py holds it.
        everyone = jnp.ones(mask.shape, bool)
        _, _, result = jax.lax.while_loop(
            lambda carry: jnp.any(carry[1]), turn, (scales, everyone, empty)
        )
        return result

    return clipped_sum


def _scaled(loss_fn: LossFunction) -> LossFunction:
    def loss_and_rest(params: Tree, row: Tree) -> tuple[Any, Tree]:
        loss, aux = loss_fn(params, row["example"])
        return loss.astype(jnp.float32) * row["scale"], (loss, aux)

    return loss_and_rest
