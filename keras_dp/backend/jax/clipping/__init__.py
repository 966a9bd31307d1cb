"""Clipped sums of any JAX function: by book-keeping on the jaxpr, or by plain `vmap`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from keras_dp.backend.jax.clipping import reference
from keras_dp.backend.jax.clipping.jaxpr import assemble, compat
from keras_dp.backend.jax.clipping.loss_scale import with_loss_scale
from keras_dp.clip_rules import Clip, ClipRule, numbered
from keras_dp.types import ClippedSum, Tree


def _auto(*arguments: Any) -> ClippedSum:
    """Take the book-keeping engine, or the slow sure way on a JAX it was not tested on."""
    method = assemble if compat.is_tested() else reference
    return method.clipped_sum(*arguments)


_METHODS: dict[str, Callable[..., ClippedSum]] = {"auto": _auto, "vmap": reference.clipped_sum}


def clipped_sum(
    loss_fn: Callable[..., Any],
    clip_norm: Any,
    method: str,
    rule: ClipRule,
    layers: Sequence[Any] | None,
    loss_scale: float | None,
) -> Callable[..., ClippedSum]:
    """Make a function that clips every example's gradient and sums them.

    Args:
        loss_fn: `loss_fn(params, example)` gives a scalar loss, or `(loss, aux)`.
        clip_norm: Float or scalar array, the bound.
        method: `"auto"` or `"vmap"`.
        rule: The clip rule.
        layers: One hashable for each leaf of `params`, or `None`.
        loss_scale: For gradients in float16, or `None`.

    See `keras_dp.clipping.clipped_sum`.
    """
    compute = _METHODS[method]
    if loss_scale is not None:
        compute = with_loss_scale(compute, loss_scale)

    def clip_and_sum(params: Tree, batch: Tree, mask: Any = None) -> ClippedSum:
        size = _batch_axis(batch)
        _check_params(params)
        mask = jnp.ones((size,), jnp.float32) if mask is None else jnp.asarray(mask)
        if mask.shape != (size,):
            raise ValueError(
                f"`mask` must have shape ({size},), one entry for each example. "
                f"Received shape {mask.shape}."
            )
        clip = Clip(rule, clip_norm, numbered(layers, len(jax.tree.leaves(params))))
        if size == 0:
            return _of_nothing(_with_aux(loss_fn), params, batch)
        return compute(_with_aux(loss_fn), params, batch, mask, clip)

    return clip_and_sum


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
