"""Per-example clipping: the front door `clipped_sum`, and `explain`."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_dp import backend, validation
from keras_dp.backend import FLOAT16_SCALE, Report, rewrite
from keras_dp.clip_rules import CLIP_RULES, AdaptiveQuantile, Automatic, ClipRule, resolve
from keras_dp.clipping.explain import explain
from keras_dp.types import ClippedSum

__all__ = [
    "CLIP_RULES",
    "FLOAT16_SCALE",
    "METHODS",
    "AdaptiveQuantile",
    "Automatic",
    "ClipRule",
    "ClippedSum",
    "Report",
    "clipped_sum",
    "explain",
    "resolve",
    "rewrite",
]

METHODS = ("auto", "vmap")
"""Ways to compute the clipped sum, all with the same result."""


def clipped_sum(
    loss_fn: Callable[..., Any],
    *,
    clip_norm: Any,
    method: str = "auto",
    clipping: Any = "flat",
    layers: Sequence[Any] | None = None,
    loss_scale: float | None = None,
) -> Callable[..., ClippedSum]:
    """Make a function that clips every example's gradient and sums them.

    `grads = sum_i mask_i * c_i * g_i` with `g_i = d loss_fn(params, example_i) / d params` and
    `c_i = min(1, clip_norm / |g_i|)`. It is the engine under `DPModel` and serves any JAX function.

    Args:
        loss_fn: `loss_fn(params, example)` gives a scalar loss, or `(loss, aux)`. The example
            comes without batch axis, so examples cannot mix.
        clip_norm: Float above 0 (or a traced scalar), the largest L2 norm that one example adds.
        method: `"auto"` (default) picks the fastest exact method, `"vmap"` is the slow reference.
        clipping: The clip rule: a name in `CLIP_RULES`, `"flat"` by default, or a rule object.
        layers: For `"per_layer"`: one hashable for each leaf of `params`; leaves with equal ones
            form a layer. Default: each leaf is one.
        loss_scale: For gradients in float16: what every example's loss is multiplied with before
            the backward pass; `FLOAT16_SCALE` is a good one. An example whose gradient overflows
            is tried again with a smaller scale of its own, and again. The scale is taken away
            before the clip. `None` (default): none.

    Returns:
        `f(params, batch, mask=None) -> ClippedSum`: `batch` has a leading batch axis on every
        leaf, `mask` has shape `(batch,)` and is 0 for padding. An example whose gradient has NaN
        or infinite entries, or a norm that overflows float32, adds nothing.

    Raises:
        ValueError: for a bad clip norm, an unknown name, a loss that is no scalar, integer
            parameters, or leaves that disagree on the batch axis.

    Privacy:
        The sum is not private yet. Adding or removing one example moves it by at most the clip
        rule's `sensitivity(clip_norm)` in L2 norm, which the noise must match; that is `clip_norm`
        for the flat rule.

    Example:
        >>> import jax.numpy as jnp
        >>> from keras_dp import clipping
        >>> f = clipping.clipped_sum(lambda p, x: 0.5 * (p - x) ** 2, clip_norm=2.5)
        >>> f(jnp.array(2.0), jnp.array([1.0, 4.0, 7.0])).grads.item()
        -3.5

    References:
        Abadi et al. 2016, Deep Learning with Differential Privacy, algorithm 1.
    """
    if not keras.ops.is_tensor(clip_norm):
        validation.positive_float("clip_norm", clip_norm)
    validation.one_of("method", method, METHODS)
    if loss_scale is not None:
        validation.positive_float("loss_scale", loss_scale)
    rule = resolve(clipping)
    return backend.clipped_sum(loss_fn, clip_norm, method, rule, layers, loss_scale)
