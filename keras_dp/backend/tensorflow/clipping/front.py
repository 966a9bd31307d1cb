"""Clipped sums of any TensorFlow function: by book-keeping on its graph, or by plain vectorising.

Everything here makes graphs: called eagerly, a function is traced first.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from keras_dp.backend.tensorflow.clipping import bookkeeping, reference
from keras_dp.backend.tensorflow.clipping.loss_scale import with_loss_scale
from keras_dp.backend.tensorflow.clipping.trees import Packed
from keras_dp.clip_rules import Clip, ClipRule, numbered
from keras_dp.types import ClippedSum, Tree

_METHODS: dict[str, Callable[..., ClippedSum]] = {
    "auto": bookkeeping.clipped_sum,
    "vmap": reference.clipped_sum,
}


def clipped_sum(
    loss_fn: Callable[..., Any],
    clip_norm: Any,
    method: str,
    rule: ClipRule,
    layers: Sequence[Any] | None,
    loss_scale: float | None,
    views: int = 1,
) -> Callable[..., ClippedSum]:
    """Make a function that clips every example's gradient and sums them.

    Args:
        loss_fn: `loss_fn(params, example)` gives a scalar loss, or `(loss, aux)`.
        clip_norm: Float or scalar tensor, the bound.
        method: `"auto"` or `"vmap"`.
        rule: The clip rule.
        layers: One hashable for each leaf of `params`, or `None`.
        loss_scale: For gradients in float16, or `None`.
        views: How many rows of the batch each example has, one after another; its loss is their
            mean. With `"auto"` only.

    See `keras_dp.clipping.clipped_sum`.
    """
    compute = _METHODS[method]
    if views != 1:
        compute = partial(compute, views=views)
    if loss_scale is not None:
        compute = with_loss_scale(compute, loss_scale, views)

    @tf.autograph.experimental.do_not_convert
    def clip_and_sum(params: Tree, batch: Tree, mask: Any = None) -> ClippedSum:
        params = tf.nest.map_structure(tf.convert_to_tensor, params)
        rows = Packed(batch)
        size = _batch_axis(rows.tensors) // views
        batch = rows.unpacked(rows.tensors)
        _check_params(params)
        mask = tf.ones((size,)) if mask is None else tf.convert_to_tensor(mask)
        if mask.shape != (size,):
            raise ValueError(
                f"`mask` must have shape ({size},), one entry for each example. "
                f"Received shape {tuple(mask.shape)}."
            )
        mask = tf.cast(mask, tf.float32)
        clip = Clip(rule, clip_norm, numbered(layers, len(tf.nest.flatten(params))))
        method = _of_nothing if size == 0 else compute
        return in_graph(partial(method, _with_aux(loss_fn)), params, batch, mask, clip)

    return clip_and_sum


def in_graph(compute: Callable[..., ClippedSum], *arguments: Any) -> ClippedSum:
    """Compute in the graph that is being made, or in one of its own."""
    if not tf.executing_eagerly():
        params, *others = arguments
        # Of this graph, even where that is the body of a loop: weights are found by identity.
        return compute(tf.nest.map_structure(tf.identity, params), *others)
    packed: list[Packed] = []
    params, batch, mask, clip = arguments
    rows = Packed(batch)

    def traced(params: Tree, leaves: list[Any], mask: Any) -> list[Any]:
        packed.append(Packed(compute(params, rows.unpacked(leaves), mask, clip)))
        return packed[0].tensors

    tensors = tf.function(traced, autograph=False)(params, rows.tensors, mask)
    return packed[0].unpacked(tensors)


def _of_nothing(
    loss_fn: Callable[..., Any], params: Tree, batch: Tree, mask: Any, clip: Clip
) -> ClippedSum:
    """Return the clipped sum of a batch without examples."""
    del clip
    rows = Packed(batch)
    blank = rows.unpacked([tf.zeros(leaf.shape[1:], leaf.dtype) for leaf in rows.tensors])
    loss, aux = loss_fn(params, blank)
    sums = tf.nest.map_structure(lambda a: tf.zeros(a.shape, tf.float32), params)
    outputs = Packed(aux)
    empty = [tf.zeros((0, *a.shape), a.dtype) for a in outputs.tensors]
    return ClippedSum(sums, mask, tf.zeros((0,), loss.dtype), outputs.unpacked(empty))


def _with_aux(loss_fn: Callable[..., Any]) -> Callable[[Tree, Tree], tuple[Any, Tree]]:
    """Give `loss_fn` an auxiliary output, and refuse a loss that is no scalar."""

    def loss_and_aux(params: Tree, example: Tree) -> tuple[Any, Tree]:
        result = loss_fn(params, example)
        loss, aux = result if isinstance(result, tuple) else (result, None)
        loss = tf.convert_to_tensor(loss)
        if loss.shape.rank != 0:
            raise ValueError(
                "`loss_fn` must return a scalar loss for one example. "
                f"Received shape {tuple(loss.shape)}; reduce it with a mean or a sum."
            )
        return loss, aux

    return loss_and_aux


def _batch_axis(leaves: Sequence[Any]) -> int:
    sizes = {tuple(leaf.shape[:1]) for leaf in leaves}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            "Every leaf of `batch` must have the same leading batch axis. "
            f"Received leading axes {sorted(sizes)}."
        )
    return int(next(iter(sizes))[0])


def _check_params(params: Tree) -> None:
    for path, leaf in keras.tree.flatten_with_path(params):
        if not leaf.dtype.is_floating:
            raise ValueError(
                "`params` must hold floating point tensors, since they are differentiated. "
                f"Received {leaf.dtype.name} at params{''.join(f'[{key!r}]' for key in path)}."
            )
