"""The loss of one example, as a pure function of the trainable weights."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_dp.augmentation import SEED_STATE
from keras_dp.backend.float16 import FLOAT16_SCALE
from keras_dp.backend.jax.clipping import clipped_sum
from keras_dp.clip_rules import layers_of
from keras_dp.types import ClippedSum, Tree

EVALUATED_TOGETHER = 256
"""Examples whose losses are computed at a time."""


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
        clip_norm: Float or scalar array, the bound on one example's gradient.

    Returns:
        Sums for each trainable variable, the norms, the losses, and as `aux` a dict with each
        example's `y_pred` (`None` where the model needs none) and its changes of `metrics`.

    Privacy:
        Adding or removing one example moves the sums by at most the clip rule's sensitivity.
    """
    clip = clipped_sum(
        example_loss(model, non_trainable, metrics),
        clip_norm,
        "auto",
        model.optimizer.clip_rule,
        layers_of(model),
        loss_scale(model),
    )
    clipped = clip(params, examples, valid)
    seen = {name: value for name, value in clipped.aux.items() if name != "non_trainable"}
    return clipped._replace(aux=seen)


def example_loss(
    model: Any, non_trainable: list[Any], metrics: list[Any], *, own_seeds: bool = True
) -> Callable[..., Any]:
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
        `y`, `sample_weight` (without batch axis) and `position`, the example's place in the batch,
        from which its random numbers follow. `outputs` is a dict with `y_pred`, the changes of
        `metrics` and the new `non_trainable` values.

        With augmentation `x` has an axis of views in the place of the batch axis. The loss, and
        what it adds to metrics, is the mean over the views; `y_pred` is that of the first.
    """
    keeps_predictions = model.needs_predictions()

    def loss_of_one(
        params: list[Any], state: list[Any], x: Tree, y: Tree, weight: Any
    ) -> tuple[Any, Tree]:
        x, y, weight = jax.tree.map(lambda a: a[None], (x, y, weight))
        with model.example_by_example():
            loss, (_, y_pred, state, changed) = model.compute_loss_and_updates(
                params, state, metrics, x, y, weight, training=True, optimizer_variables=[]
            )
        outputs = {
            "y_pred": _without_batch(y_pred) if keeps_predictions else None,
            "metrics": [new - old for new, old in zip(changed, metrics, strict=True)],
            "non_trainable": state,
        }
        return loss.astype(jnp.float32), outputs

    def loss_fn(params: list[Any], example: Tree) -> tuple[Any, Tree]:
        x, y, weight = example["x"], example["y"], example["sample_weight"]
        state = non_trainable
        if own_seeds:
            state = _own_randomness(model, non_trainable, example["position"])
        if model.view_maker is None:
            return loss_of_one(params, state, x, y, weight)

        def loss_of_view(view: Tree, number: Any) -> tuple[Any, Tree]:
            own = _own_randomness(model, state, number) if own_seeds else state
            return loss_of_one(params, own, view, y, weight)

        numbers = jnp.arange(model.view_maker.count)
        return _averaged(*jax.vmap(loss_of_view)(x, numbers))

    return loss_fn


def _averaged(losses: Any, outputs: Tree) -> tuple[Any, Tree]:
    """Return the mean loss of an example's views, before any gradient is asked for."""
    first = jax.tree.map(lambda a: a[0], outputs)
    changes = [jnp.mean(a, axis=0).astype(a.dtype) for a in outputs["metrics"]]
    return jnp.mean(losses), {**first, "metrics": changes}


def loss_scale(model: Any) -> float | None:
    """Return what an example's loss is multiplied with: something if a layer works in float16."""
    computes = {layer.compute_dtype for layer in model._flatten_layers()}
    return FLOAT16_SCALE if "float16" in computes else None


def example_losses(model: Any, rows: Tree) -> Any:
    """Return every example's loss as `evaluate` would compute it for that example alone.

    Args:
        model: A compiled `keras.Model`, private or not.
        rows: `(x, y, sample_weight)`, each leaf with one row for each example.

    Returns:
        NumPy array of shape `(examples,)`.
    """
    model._symbolic_build(data_batch=jax.tree.map(lambda a: a[:2], rows))
    state = [
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.metrics_variables,
        )
    ]
    alone = getattr(model, "example_by_example", contextlib.nullcontext)

    def loss_of(state: list[Any], example: Tree) -> Any:
        x, y, weight = jax.tree.map(lambda a: a[None], example)
        with alone():
            loss, _ = model.compute_loss_and_updates(
                *state, x, y, weight, training=False, optimizer_variables=[]
            )
        return loss.astype(jnp.float32)

    losses = jax.jit(jax.vmap(loss_of, (None, 0)))
    size = len(jax.tree.leaves(rows)[0])
    parts = [
        losses(state, jax.tree.map(lambda a, s=start: a[s : s + EVALUATED_TOGETHER], rows))
        for start in range(0, size, EVALUATED_TOGETHER)
    ]
    return np.concatenate([np.asarray(part) for part in parts])


def _own_randomness(model: Any, non_trainable: list[Any], position: Any) -> list[Any]:
    """Give every seed generator a state that is this example's alone."""
    return [
        _fold(value, position) if variable.name == SEED_STATE else value
        for variable, value in zip(model.non_trainable_variables, non_trainable, strict=True)
    ]


def regularization_gradient(model: Any, params: list[Any]) -> tuple[Any, list[Any]]:
    """Return the weight regularizers' loss and its gradient.

    They depend on no data, so they stay outside the clip and cost no privacy.
    """

    def penalty(values: list[Any]) -> Any:
        mapping = list(zip(model.trainable_variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            losses = model.regularization_losses()
        return sum((jnp.sum(loss) for loss in losses), start=jnp.zeros(()))

    return jax.value_and_grad(penalty)(params)


def _fold(state: Any, position: Any) -> Any:
    key = jax.random.wrap_key_data(state, impl="threefry2x32")
    return jax.random.key_data(jax.random.fold_in(key, position))


def _without_batch(y_pred: Tree) -> Tree:
    def strip(leaf: Any) -> Any:
        if leaf.ndim == 0 or leaf.shape[0] != 1:
            raise ValueError(
                "Every output of the model must have a batch axis of the inputs' size. For a batch "
                f"of one example an output came with shape {leaf.shape}."
            )
        return leaf[0]

    return jax.tree.map(strip, y_pred)
