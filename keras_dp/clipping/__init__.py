"""Per-example clipping: the front door `clipped_sum` and the clip rules behind it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from keras_dp import validation
from keras_dp.clipping import reference
from keras_dp.clipping.explain import Report, explain
from keras_dp.clipping.factors import Clip
from keras_dp.clipping.jaxpr import assemble, compat
from keras_dp.clipping.jaxpr.program import rewrite
from keras_dp.clipping.loss_scale import FLOAT16_SCALE, with_loss_scale
from keras_dp.clipping.rules import CLIP_RULES, AdaptiveQuantile, Automatic, ClipRule, resolve
from keras_dp.types import ClippedSum, Tree

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


def _auto(*arguments: Any) -> ClippedSum:
    """Take the book-keeping engine, or the slow sure way on a JAX it was not tested on."""
    method = assemble if compat.is_tested() else reference
    return method.clipped_sum(*arguments)


METHODS: dict[str, Callable[..., ClippedSum]] = {
    "auto": _auto,
    "vmap": reference.clipped_sum,
}
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
    if not isinstance(clip_norm, jax.Array):
        validation.positive_float("clip_norm", clip_norm)
    compute = METHODS[validation.one_of("method", method, METHODS)]
    if loss_scale is not None:
        compute = with_loss_scale(compute, validation.positive_float("loss_scale", loss_scale))
    rule = resolve(clipping)

    def clip_and_sum(params: Tree, batch: Tree, mask: Any = None) -> ClippedSum:
        size = _batch_axis(batch)
        _check_params(params)
        mask = jnp.ones((size,), jnp.float32) if mask is None else jnp.asarray(mask)
        if mask.shape != (size,):
            raise ValueError(
                f"`mask` must have shape ({size},), one entry for each example. "
                f"Received shape {mask.shape}."
            )
        clip = Clip(rule, clip_norm, _number(layers, len(jax.tree.leaves(params))))
        if size == 0:
            return _of_nothing(_with_aux(loss_fn), params, batch)
        return compute(_with_aux(loss_fn), params, batch, mask, clip)

    return clip_and_sum


def _number(layers: Sequence[Any] | None, leaves: int) -> tuple[int, ...]:
    """Number the layers in order of appearance."""
    names = list(range(leaves)) if layers is None else list(layers)
    if len(names) != leaves:
        raise ValueError(
            f"`layers` must have one entry for each of the {leaves} leaves of `params`. "
            f"Received {len(names)}."
        )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return tuple(numbers[name] for name in names)


def _of_nothing(loss_fn: Callable[..., Any], params: Tree, batch: Tree) -> ClippedSum:
    """Return the clipped sum of a batch without examples."""
    loss, aux = jax.eval_shape(
        loss_fn, params, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), batch)
    )
    sums = jax.tree.map(lambda a: jnp.zeros(jnp.shape(a), jnp.float32), params)
    empty = jax.tree.map(lambda a: jnp.zeros((0, *a.shape), a.dtype), aux)
    return ClippedSum(sums, jnp.zeros((0,), jnp.float32), jnp.zeros((0,), loss.dtype), empty)


def _with_aux(loss_fn: Callable[..., Any]) -> Callable[[Tree, Tree], tuple[Any, Tree]]:
    """Give `loss_fn` an auxiliary output, and refuse a loss that is no scalar."""

    def loss_and_aux(params: Tree, example: Tree) -> tuple[Any, Tree]:
        result = loss_fn(params, example)
        loss, aux = result if isinstance(result, tuple) else (result, None)
        if jnp.ndim(loss) != 0:
            raise ValueError(
                "`loss_fn` must return a scalar loss for one example. "
                f"Received shape {jnp.shape(loss)}; reduce it with a mean or a sum."
            )
        return loss, aux

    return loss_and_aux


def _batch_axis(batch: Tree) -> int:
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            "Every leaf of `batch` must have the same leading batch axis. "
            f"Received leading axes {sorted(sizes)}."
        )
    return int(next(iter(sizes))[0])


def _check_params(params: Tree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                "`params` must hold floating point arrays, since they are differentiated. "
                f"Received {jnp.result_type(leaf)} at params{jax.tree_util.keystr(path)}."
            )
