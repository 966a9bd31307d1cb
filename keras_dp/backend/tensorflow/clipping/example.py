"""The loss of one example, as a pure function of the trainable weights."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_dp.augmentation import SEED_STATE
from keras_dp.backend.float16 import FLOAT16_SCALE
from keras_dp.backend.tensorflow.clipping.front import clipped_sum
from keras_dp.backend.tensorflow.clipping.trees import Packed
from keras_dp.clip_rules import layers_of
from keras_dp.types import ClippedSum, Tree

UNROLLED = 256
"""Recurrent layers are traced step by step, where no input is longer than this."""

LossFunction = Callable[[list[Any], Tree], tuple[Any, Tree]]


def clip_examples(
    model: Any,
    params: list[Any],
    non_trainable: list[Any],
    metrics: list[Any],
    examples: Tree,
    valid: Any,
    clip_norm: Any,
) -> ClippedSum:
    """Clip the gradients of a microbatch's examples by the model's rule, and sum them.

    Args:
        model: A `DPModel` that is built and compiled.
        params: Values of its trainable variables.
        non_trainable: Values of its non-trainable variables.
        metrics: Values of its metric variables.
        examples: Dict with `x`, `y`, `sample_weight` and `position`, the example's place in the
            batch, from which its random numbers follow; each with a leading axis of examples. With
            augmentation the leaves of `x` have an axis of views after it.
        valid: Boolean for each example: whether it is one; all others are padding.
        clip_norm: Float or scalar tensor, the bound on one example's gradient.

    Returns:
        Sums for each trainable variable, the norms, the losses, and as `aux` a dict with each
        example's `y_pred` (`None` where the model needs none) and its changes of `metrics`.

    Privacy:
        Adding or removing one example moves the sums by at most the clip rule's sensitivity.
    """
    views = 1 if model.view_maker is None else model.view_maker.count
    clip = clipped_sum(
        example_loss(model, non_trainable, metrics),
        clip_norm,
        "auto",
        model.optimizer.clip_rule,
        layers_of(model),
        loss_scale(model),
        views,
    )
    clipped = clip(params, _rows(examples, model.view_maker is not None, views), valid)
    seen = {name: clipped.aux[name] for name in ("y_pred", "metrics")}
    clipped = clipped._replace(aux=seen)
    return clipped if model.view_maker is None else _averaged(clipped, views)


def example_loss(
    model: Any, non_trainable: list[Any], metrics: list[Any], *, own_seeds: bool = True
) -> LossFunction:
    """Make `loss_fn(params, example) -> (loss, outputs)` for `clipped_sum`.

    The model and the loss see a batch of one, so nothing in them can mix examples, and whatever
    Keras averages over a batch it averages over one example.

    Args:
        model: A `DPModel` that is built and compiled.
        non_trainable: Values of its non-trainable variables.
        metrics: Values of its metric variables.
        own_seeds: Whether every example draws random numbers of its own, as dropout must.

    Returns:
        A function of `params` (values of the trainable variables) and `example`, a dict with `x`,
        `y`, `sample_weight` (without batch axis) and `places`, an integer vector of the example's
        place in the batch, and of its view's among the views, from which its random numbers follow.
        `outputs` is a dict with `y_pred`, the changes of `metrics` and the new `non_trainable`
        values.
    """
    keeps_predictions = model.needs_predictions()

    def loss_fn(params: list[Any], example: Tree) -> tuple[Any, Tree]:
        x, y, weight = (
            tf.nest.map_structure(lambda a: None if a is None else a[None], example[name])
            for name in ("x", "y", "sample_weight")
        )
        state = non_trainable
        if own_seeds:
            state = _own_randomness(model, state, example["places"])
        with model.example_by_example(), _step_by_step(model, x):
            loss, y_pred, state, changed = _loss_and_updates(
                model, (params, state, metrics), (x, y, weight)
            )
        outputs = {
            "y_pred": _without_batch(y_pred) if keeps_predictions else None,
            "metrics": [new - old for new, old in zip(changed, metrics, strict=True)],
            "non_trainable": state,
        }
        return tf.cast(loss, tf.float32), outputs

    return loss_fn


def _loss_and_updates(
    model: Any, state: tuple[list[Any], list[Any], list[Any]], data: tuple[Tree, Tree, Tree]
) -> tuple[Any, Tree, list[Any], list[Any]]:
    """Call model and loss in training mode: loss, predictions, non-trainable state, metrics."""
    params, non_trainable, metrics = state
    x, y, weight = data
    mode = {"training": True} if model._call_has_training_arg else {}
    y_pred, non_trainable, losses = model.stateless_call(
        params, non_trainable, x, return_losses=True, **mode
    )
    model._losses_override = losses
    try:
        loss, (_, non_trainable, metrics) = model.stateless_compute_loss(
            params, non_trainable, metrics, x, y, y_pred, weight, training=True
        )
    finally:
        model._losses_override = []
    return loss, y_pred, non_trainable, metrics


def loss_scale(model: Any) -> float | None:
    """Return what an example's loss is multiplied with: something if a layer works in float16."""
    computes = {layer.compute_dtype for layer in model._flatten_layers()}
    return FLOAT16_SCALE if "float16" in computes else None


@contextlib.contextmanager
def _step_by_step(model: Any, x: Tree) -> Iterator[None]:
    """Trace recurrent layers without a loop, so that the products of each step are seen."""
    lengths = [leaf.shape[1] for leaf in Packed(x).tensors if leaf.shape.rank > 1]
    looped = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.RNN) and not layer.unroll
    ]
    unrolled = looped if max(lengths, default=0) <= UNROLLED else []
    try:
        for layer in unrolled:
            layer.unroll = True
        yield
    finally:
        for layer in unrolled:
            layer.unroll = False


def _rows(examples: Tree, viewed: bool, views: int) -> Tree:
    """Return one row for each view of each example, with what its random numbers follow from."""
    position = tf.cast(tf.convert_to_tensor(examples["position"]), tf.int64)
    if not viewed:
        rest = {name: examples[name] for name in ("x", "y", "sample_weight")}
        return {**rest, "places": position[:, None]}
    number = tf.tile(tf.range(views, dtype=tf.int64), position.shape)
    places = tf.stack([tf.repeat(position, views), number], 1)

    def repeated(leaf: Any) -> Any:
        return None if leaf is None else tf.repeat(leaf, views, axis=0)

    def opened(leaf: Any) -> Any:
        return None if leaf is None else tf.reshape(leaf, (-1, *leaf.shape[2:]))

    return {
        "x": tf.nest.map_structure(opened, examples["x"]),
        "y": tf.nest.map_structure(repeated, examples["y"]),
        "sample_weight": tf.nest.map_structure(repeated, examples["sample_weight"]),
        "places": places,
    }


def _averaged(clipped: ClippedSum, views: int) -> ClippedSum:
    """Return an example's loss and its changes of metrics as means over its views."""

    def mean(rows: Any) -> Any:
        by_view = tf.reshape(rows, (-1, views, *rows.shape[1:]))
        return tf.cast(tf.reduce_mean(tf.cast(by_view, tf.float32), 1), rows.dtype)

    def first(rows: Any) -> Any:
        return None if rows is None else rows[::views]

    aux = {
        "y_pred": tf.nest.map_structure(first, clipped.aux["y_pred"]),
        "metrics": [mean(change) for change in clipped.aux["metrics"]],
    }
    return clipped._replace(losses=mean(clipped.losses), aux=aux)


def _own_randomness(model: Any, non_trainable: list[Any], places: Any) -> list[Any]:
    """Give every seed generator a state that is this example's alone."""
    return [
        _folded(value, places) if variable.name == SEED_STATE else value
        for variable, value in zip(model.non_trainable_variables, non_trainable, strict=True)
    ]


def _folded(state: Any, places: Any) -> Any:
    """Mix places into both numbers of a seed, and keep them non-negative."""
    mixed = tf.bitcast(state, tf.uint64)
    for i in range(places.shape[0]):
        place = tf.bitcast(places[i], tf.uint64)
        mixed = _scrambled(_scrambled(mixed) + place + tf.constant([1, 2], tf.uint64))
    return tf.bitcast(tf.bitwise.right_shift(mixed, tf.constant(1, tf.uint64)), tf.int64)


def _scrambled(numbers: Any) -> Any:
    """Return a one-to-one function of 64 bits in which each bit moves about half of the others.

    References:
        Steele et al. 2014, Fast Splittable Pseudorandom Number Generators, the function mix64.
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers ^= tf.bitwise.right_shift(numbers, tf.constant(shift, tf.uint64))
        numbers *= tf.constant(factor, tf.uint64)
    return numbers ^ tf.bitwise.right_shift(numbers, tf.constant(31, tf.uint64))


def _without_batch(y_pred: Tree) -> Tree:
    def strip(leaf: Any) -> Any:
        if leaf.shape.rank == 0 or leaf.shape[0] != 1:
            raise ValueError(
                "Every output of the model must have a batch axis of the inputs' size. For a batch "
                f"of one example an output came with shape {tuple(leaf.shape)}."
            )
        return leaf[0]

    return tf.nest.map_structure(strip, y_pred)
