"""One example's loss, traced: what becomes of non-trainable state, and what clipping costs."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_dp.backend.tensorflow.clipping.bookkeeping import Traced
from keras_dp.backend.tensorflow.clipping.example import example_loss
from keras_dp.backend.tensorflow.clipping.flow import DATA, Flow
from keras_dp.backend.tensorflow.clipping.report import report
from keras_dp.backend.tensorflow.clipping.trees import Packed
from keras_dp.backend.trace import ExampleTrace
from keras_dp.errors import NotPrivateError
from keras_dp.types import Tree

_WRITES = ("Assign", "ResourceApply", "ResourceScatter")


def trace_example(model: Any, rows: Tree) -> ExampleTrace:
    """Trace the loss of one example and follow the data into the non-trainable variables.

    An operation with an input that depends on the example is taken to make all its outputs depend
    on it, so nothing is missed; a variable that is passed through or computed from weights and
    other state alone is free.

    Args:
        model: A `DPModel` that is built and compiled.
        rows: `(x, y, sample_weight)` with a few examples, of which only the shapes are used.

    Raises:
        NotPrivateError: for a model that writes to variables Keras does not know.
    """
    params, state, metrics = (
        [tf.TensorSpec(variable.shape, variable.dtype) for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.metrics_variables,
        )
    )
    views = 1 if model.view_maker is None else model.view_maker.count
    example = _example(rows, viewed=model.view_maker is not None)
    specs = [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in example.tensors]
    names = [variable.path for variable in model.trainable_variables]
    found: list[Any] = []

    def traced(params: list[Any], state: list[Any], leaves: list[Any], zero: Any) -> Any:
        zeros = [tf.zeros(spec.shape, spec.dtype) for spec in metrics]
        loss_fn = example_loss(model, state, zeros, own_seeds=False)
        loss = Traced(loss_fn, params, example.unpacked(leaves), zero, 1)
        after = [tf.convert_to_tensor(value) for value in loss.aux["non_trainable"]]
        flow = Flow(after, [*params, *state], [*leaves, zero])
        check_complete(loss, names)
        found.append((loss, flow, params, state, after))
        return loss.loss

    signature = (params, state, specs, tf.TensorSpec((), tf.float32))
    plain = tf.autograph.experimental.do_not_convert(traced)
    function = tf.compat.v1.wrap_function(plain, signature)
    loss, flow, params, state, after = found[0]
    check_writes(function.graph)
    dependent = tuple(i for i, value in enumerate(after) if flow.of(value) & DATA)
    return ExampleTrace(
        dependent,
        _advance(function, params, state, after, set(dependent)),
        lambda: report(loss, names, views),
    )


def _advance(
    function: Any, params: list[Any], state: list[Any], after: list[Any], dependent: set[int]
) -> Callable[[list[Any], list[Any]], list[Any]]:
    """Return the function that computes new state by the operations no data flow into."""
    moved = [
        i
        for i, (new, old) in enumerate(zip(after, state, strict=True))
        if new is not old and i not in dependent
    ]
    compute = function.prune([*params, *state], [after[i] for i in moved]) if moved else None

    def advance(params: list[Any], non_trainable: list[Any]) -> list[Any]:
        new = list(non_trainable)
        if compute is not None:
            given = [tf.convert_to_tensor(value) for value in (*params, *non_trainable)]
            for i, value in zip(moved, compute(*given), strict=True):
                new[i] = value
        return new

    return advance


def check_complete(loss: Traced, names: list[str]) -> None:
    """Refuse a loss in which a weight has a gradient that no site accounts for.

    Raises:
        NotPrivateError: naming the weights.
    """
    if loss.flow.has_lists:
        return
    gradients = tf.gradients(loss.loss, loss.weights)
    met = {weight.ref() for tensor in loss.met for weight in loss.flow.weights_behind(tensor)}
    each = zip(names, loss.weights, gradients, strict=True)
    missed = [name for name, weight, g in each if g is not None and weight.ref() not in met]
    if missed:
        raise NotPrivateError(
            "Every gradient of a weight must be clipped, but it was not found where these weights "
            f"meet data: {missed}. Write the layer that holds them with `keras.ops` alone, or set "
            "`layer.trainable = False`."
        )


def check_writes(graph: Any) -> None:
    """Refuse operations that write to variables while one example's loss is computed.

    Raises:
        NotPrivateError: naming the operations, which have their layer's name in front.
    """
    writes = [op.name for op in graph.get_operations() if op.type.startswith(_WRITES)]
    if writes:
        raise NotPrivateError(
            "A model must not write to TensorFlow variables in training: what it writes would be "
            f"published without clipping and noise. Received operations that do: {writes[:3]}. "
            "Make them Keras variables with `self.add_weight(trainable=False)`, or leave them out."
        )


def _example(rows: Tree, viewed: bool) -> Packed:
    """Return one example, or one view of it, of which only shape and type matter."""
    x, y, weight = rows
    return Packed(
        {
            "x": tf.nest.map_structure(lambda a: _first(_first(a)) if viewed else _first(a), x),
            "y": tf.nest.map_structure(_first, y),
            "sample_weight": tf.nest.map_structure(_first, weight),
        }
    )


def _first(leaf: Any) -> Any:
    return None if leaf is None else leaf[0]
