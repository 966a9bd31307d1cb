"""Keras where variables hold the training state: read before an update, written back after it."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dp.backend.memory import Memory
from keras_dp.backend.train_function import TrainFunction
from keras_dp.sampling.rows import leaves, map_leaves
from keras_dp.types import Tree

MOST_EXAMPLES = 1024
GROWTH = 16

State = tuple[list[Any], list[Any], list[Any], list[Any]]


class StatefulTrainFunction(TrainFunction):
    """Reads the state from the variables, updates it, and returns the logs.

    Args:
        update: `executor.UpdateFunction`, which writes the state back after every update: see
            `hold_state`.
    """

    def __call__(self, slots: Iterable[Any]) -> dict[str, Any]:
        """Make `steps_per_execution` updates and return the logs."""
        logs, _ = self.update(read_state(self.update.model), iter(slots))
        return dict(logs)


def train_function(update: Any) -> TrainFunction:
    """Return what Keras' loop calls once for every step.

    Args:
        update: `executor.UpdateFunction`.
    """
    return StatefulTrainFunction(update)


def read_state(model: Any) -> State:
    """Return the values of trainable, non-trainable, optimizer and metric variables."""
    trainable, non_trainable, optimizer, metrics = (
        [ops.stop_gradient(variable.value) for variable in variables]
        for variables in _variables(model)
    )
    return trainable, non_trainable, optimizer, metrics


def hold_state(model: Any, state: State) -> None:
    """Write the state of a finished update to the variables.

    An interruption does not leave some of them old and some new: they are all written once more.
    """
    pairs = [
        (variable, value)
        for variables, values in zip(_variables(model), state, strict=True)
        for variable, value in zip(variables, values, strict=True)
    ]
    try:
        _assign(pairs)
    except BaseException:
        _assign(pairs)
        raise


def _assign(pairs: list[tuple[Any, Any]]) -> None:
    for variable, value in pairs:
        variable.assign(value)


def _variables(model: Any) -> tuple[list[Any], ...]:
    trainable, non_trainable, metrics = _of_model(model)
    return trainable, non_trainable, model.optimizer.variables, metrics


def _of_model(model: Any) -> tuple[list[Any], list[Any], list[Any]]:
    return model.trainable_variables, model.non_trainable_variables, model.metrics_variables


def measure(model: Any, metrics: list[Any], results: Tree, valid: Any, penalty: Any) -> list[Any]:
    """Update the metrics by a microbatch of which only the first `valid` rows count.

    Metrics know nothing of padding, so they get a microbatch that is cut to its true examples.

    Args:
        model: A `DPModel` that is built and compiled.
        metrics: Values of its metric variables.
        results: Dict with `x`, `y`, `sample_weight`, `y_pred`, `losses` and `metrics` (changes
            that the loss made to them), each with a leading batch axis.
        valid: Number of rows that count.
        penalty: Loss of the weight regularizers, part of the loss that is shown.

    Returns:
        The new values of the metric variables.
    """
    valid = ops.convert_to_tensor(valid, "int32")
    there = map_leaves(lambda rows: rows[:valid], results)
    changed = [
        value + ops.cast(ops.sum(change, axis=0), value.dtype)
        for value, change in zip(metrics, there["metrics"], strict=True)
    ]
    return list(
        ops.cond(valid > 0, lambda: _updated(model, changed, there, penalty), lambda: changed)
    )


def _updated(model: Any, metrics: list[Any], part: Tree, penalty: Any) -> list[Any]:
    mapping = list(zip(model.metrics_variables, metrics, strict=True))
    losses = part["losses"]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        model._loss_tracker.update_state(
            ops.mean(losses) + penalty, sample_weight=ops.shape(losses)[0]
        )
        model.compute_metrics(part["x"], part["y"], part["y_pred"], part["sample_weight"])
    return _values_after(scope, mapping)


def _values_after(scope: Any, mapping: list[tuple[Any, Any]]) -> list[Any]:
    found = ((scope.get_current_value(variable), old) for variable, old in mapping)
    return [old if new is None else ops.cast(new, old.dtype) for new, old in found]


def observe(model: Any, results: Tree, used: Any) -> Any:
    """Return the sums of a microbatch that private metrics are made of.

    `sum_i used_i (cut(v_i) - middle) / (high - low)` for each metric v: an example adds at most
    1/2 in absolute value, and nothing if its value is not a number.

    Args:
        model: A `DPModel` that is compiled with private metrics.
        results: As for `measure`.
        used: Boolean for each row: whether it counts.

    Privacy:
        Every example's value is computed by a call of its own, on a batch of one.
    """
    settings = model.private_metrics
    values = [ops.cast(results["losses"], "float32")]
    for function in settings.metrics.values():
        values.append(ops.map(partial(_of_one, function), (results["y"], results["y_pred"])))
    low, high = (ops.convert_to_tensor(ends) for ends in np.array(settings.ranges, np.float32).T)
    found = ops.stack(values, axis=1)
    cut = ops.minimum(ops.maximum(found, low), high)
    shares = (cut - low) / (high - low) - 0.5
    counts = ops.logical_and(ops.expand_dims(used, 1), ops.logical_not(ops.isnan(found)))
    return ops.sum(ops.where(counts, shares, 0.0), axis=0)


def _of_one(function: Any, pair: tuple[Any, Any]) -> Any:
    """Return a metric's value of one example, averaged over its positions if it has any."""
    y, y_pred = (ops.expand_dims(part, 0) for part in pair)
    return ops.mean(ops.cast(function(y, y_pred), "float32"))


def show(model: Any, metrics: list[Any], shares: Any) -> list[Any]:
    """Take up an update's noised sums, divided by the batch size, in the metric variables."""
    mapping = list(zip(model.metrics_variables, metrics, strict=True))
    with keras.StatelessScope(state_mapping=mapping) as scope:
        model.noised_means.update_state(shares)
    return _values_after(scope, mapping)


def report(model: Any, metrics: list[Any]) -> dict[str, Any]:
    """Return the metrics' results as Keras' training logs."""
    mapping = list(zip(model.metrics_variables, metrics, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        return dict(model.get_metrics_result())


def example_losses(model: Any, rows: Tree) -> Any:
    """Return every example's loss as `evaluate` would compute it for that example alone.

    Args:
        model: A compiled `keras.Model`, private or not.
        rows: `(x, y, sample_weight)`, each leaf with one row for each example.

    Returns:
        NumPy array of shape `(examples,)`.
    """
    model._symbolic_build(data_batch=map_leaves(lambda a: a[:2], rows))
    rows = map_leaves(ops.convert_to_tensor, rows)
    alone = getattr(model, "example_by_example", contextlib.nullcontext)
    size = len(leaves(rows)[0])
    found = np.empty(size, np.float32)
    for i in range(size):
        with alone():
            x, y, weight = map_leaves(itemgetter(slice(i, i + 1)), rows)
            found[i] = ops.convert_to_numpy(_loss(model, x, y, weight))
    return found


def _loss(model: Any, x: Tree, y: Tree, weight: Any) -> Any:
    """Return the loss of a batch in inference; no variable is changed."""
    state = [[v.value for v in variables] for variables in _of_model(model)]
    called = {"training": False} if model._call_has_training_arg else {}
    y_pred, _, losses = model.stateless_call(*state[:2], x, return_losses=True, **called)
    model._losses_override = losses  # where Keras' own stateless step leaves them
    try:
        loss, _ = model.stateless_compute_loss(
            *state, x=x, y=y, y_pred=y_pred, sample_weight=weight, training=False
        )
    finally:
        model._losses_override = []
    return ops.cast(ops.stop_gradient(loss), "float32")


def pure(function: Callable[[Tree], Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """Return `function` as a function of its variables' values, too, that changes none of them.

    Args:
        function: Calls Keras models on a batch.
        variables: The Keras variables that it reads.
    """

    def of_values(values: list[Any], rows: Tree) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(rows)

    return of_values


def rewrite(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as it is: no operation has a faster form here.

    Args:
        function: A pure function of trees of tensors.
    """
    return function


def inference_rows(rows: Tree, memory: Memory) -> int:
    """Return how many examples to run forward at a time: a power of two, from 1 to 1,024.

    Inference keeps no activations for a backward pass; the largest of them is taken to have
    `GROWTH` times the bytes of the inputs.

    Args:
        rows: Some rows, of which shapes and dtypes are used.
        memory: Memory for a microbatch.
    """
    each = GROWTH * sum(a[:1].nbytes for a in map(np.asarray, leaves(rows)))
    fitting = min(MOST_EXAMPLES, max(1, memory.preferred // max(1, each)))
    return int(1 << (fitting.bit_length() - 1))
