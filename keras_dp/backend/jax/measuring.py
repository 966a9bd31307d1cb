"""Keras' metrics, updated on the examples of a microbatch that are really there."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras

from keras_dp.types import Tree


def measure(model: Any, metrics: list[Any], results: Tree, valid: Any, penalty: Any) -> list[Any]:
    """Update the metrics by a microbatch of which only the first `valid` rows count.

    Metrics know nothing of padding, so the rows are taken in slices whose sizes are powers of two
    and add up to `valid`: every metric, custom ones included, sees the true examples only.

    Args:
        model: A `DPModel` that is built and compiled.
        metrics: Values of its metric variables.
        results: Dict with `x`, `y`, `sample_weight`, `y_pred`, `losses` and `metrics` (changes
            that the loss made to them), each with a leading batch axis.
        valid: Number of rows that count, possibly traced.
        penalty: Loss of the weight regularizers, part of the loss that is shown.

    Returns:
        The new values of the metric variables.
    """
    rows = results["losses"].shape[0]
    used = jnp.arange(rows) < valid
    metrics = [
        value + _sum_of_used(used, change).astype(value.dtype)
        for value, change in zip(metrics, results["metrics"], strict=True)
    ]
    start = jnp.zeros((), jnp.int32)
    for size in (1 << bit for bit in reversed(range(rows.bit_length()))):
        taken = (valid & size) > 0
        part = jax.tree.map(lambda a, s=start, n=size: _slice(a, s, n), results)
        metrics = jax.lax.cond(
            taken,
            lambda values, part=part: _update(model, values, part, penalty),
            lambda values: values,
            metrics,
        )
        start = start + jnp.where(taken, size, 0)
    return metrics


def observe(model: Any, results: Tree, used: Any) -> Any:
    """Return the sums of a microbatch that private metrics are made of.

    `sum_i used_i (cut(v_i) - middle) / (high - low)` for each metric v: an example adds at most
    1/2 in absolute value, and nothing if its value is not a number.

    Args:
        model: A `DPModel` that is compiled with private metrics.
        results: As for `measure`.
        used: Boolean for each row: whether it counts.
    """
    settings = model.private_metrics
    values = [results["losses"]]
    for function in settings.metrics.values():
        one = partial(_of_one, function)
        values.append(jax.vmap(one)(results["y"], results["y_pred"]))
    low, high = (jnp.array(ends, jnp.float32) for ends in zip(*settings.ranges, strict=True))
    rows = jnp.stack(values, axis=1).astype(jnp.float32)
    shares = (jnp.clip(rows, low, high) - low) / (high - low) - 0.5
    return jnp.sum(jnp.where(used[:, None] & ~jnp.isnan(rows), shares, 0.0), axis=0)


def show(model: Any, metrics: list[Any], shares: Any) -> list[Any]:
    """Take up an update's noised sums, divided by the batch size, in the metric variables."""
    mapping = list(zip(model.metrics_variables, metrics, strict=True))
    with keras.StatelessScope(state_mapping=mapping) as scope:
        model.noised_means.update_state(shares)
    updated = [scope.get_current_value(variable) for variable, _ in mapping]
    return [old if new is None else new for new, old in zip(updated, metrics, strict=True)]


def _of_one(function: Any, y: Any, y_pred: Any) -> Any:
    """Return a metric's value of one example, averaged over its positions if it has any."""
    return jnp.mean(jnp.asarray(function(y[None], y_pred[None]), jnp.float32))


def report(model: Any, metrics: list[Any]) -> dict[str, Any]:
    """Return the metrics' results as Keras' training logs."""
    mapping = list(zip(model.metrics_variables, metrics, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        return dict(model.get_metrics_result())


def _update(model: Any, metrics: list[Any], part: Tree, penalty: Any) -> list[Any]:
    _, updated = model._update_metrics_variables(
        metrics,
        jnp.mean(part["losses"]) + penalty,
        part["x"],
        part["y"],
        part["y_pred"],
        part["sample_weight"],
    )
    return [new.astype(old.dtype) for new, old in zip(updated, metrics, strict=True)]


def _sum_of_used(used: Any, change: Any) -> Any:
    return jnp.sum(jnp.where(used.reshape(used.shape + (1,) * (change.ndim - 1)), change, 0), 0)


def _slice(rows: Any, start: Any, size: int) -> Any:
    return jax.lax.dynamic_slice_in_dim(rows, start, size, axis=0)
