"""Clipped sums by a slow loop: Keras' loss of a batch of one, its gradient, the clip, the sum."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

import keras_dp
from keras_dp import backend
from keras_dp.clip_rules import PerLayer


def private(model, loss, *, clipping="flat", clip_norm=1.0, **settings):
    """Compile a private model with a loss, and no noise."""
    optimizer = keras_dp.optimizers.DPSGD(
        0.1, noise_multiplier=0.0, clip_norm=clip_norm, clipping=clipping
    )
    model = keras_dp.make_private(model)
    model.compile(optimizer, loss, **settings)
    return model


def build(model, rows):
    """Build all that is unbuilt and return what the trace tells."""
    few = tf.nest.map_structure(lambda a: None if a is None else a[:2], rows)
    model._symbolic_build(data_batch=few)
    return backend.trace_example(model, few)


def values(model):
    """The values of trainable, non-trainable and metric variables."""
    kinds = (model.trainable_variables, model.non_trainable_variables, model.metrics_variables)
    return [[tf.convert_to_tensor(v.value) for v in variables] for variables in kinds]


def clipped(model, rows, valid=None, clip_norm=1.0):
    """The engine's clipped sum inside a `tf.function`."""
    x, y, weight = rows
    size = len(tf.nest.flatten(x)[0])
    valid = np.ones(size, bool) if valid is None else valid
    params, state, metrics = values(model)

    @tf.function
    def compute(x, y, weight):
        position = tf.range(size)
        examples = {"x": x, "y": y, "sample_weight": weight, "position": position}
        valid_rows = tf.constant(valid)
        return backend.clip_examples(model, params, state, metrics, examples, valid_rows, clip_norm)

    return compute(x, y, weight)


def one_gradient(model, row):
    """One example's gradient and loss, as Keras computes them for a batch of one."""
    params, state, metrics = values(model)
    x, y, weight = tf.nest.map_structure(lambda a: None if a is None else a[None], row)
    with tf.GradientTape() as tape, model.example_by_example():
        tape.watch(params)
        mode = {"training": True} if model._call_has_training_arg else {}
        y_pred, _, losses = model.stateless_call(params, state, x, return_losses=True, **mode)
        with _added(model, losses):
            loss, _ = model.stateless_compute_loss(
                params, state, metrics, x, y, y_pred, weight, training=True
            )
    gradients = tape.gradient(loss, params, unconnected_gradients="zero")
    dense = [tf.convert_to_tensor(gradient).numpy().astype(np.float64) for gradient in gradients]
    return dense, float(loss)


@contextlib.contextmanager
def _added(model, losses):
    model._losses_override = losses
    yield
    model._losses_override = []


def looped(model, rows, clip_norm=1.0):
    """Sums, norms and losses by the loop; what is not finite adds nothing."""
    rule = model.optimizer.clip_rule
    layers = [variable.path.rpartition("/")[0] for variable in model.trainable_variables]
    if not isinstance(rule, PerLayer):
        layers = [None] * len(layers)
    count = len(set(layers))
    size = len(tf.nest.flatten(rows[0])[0])
    sums = [np.zeros(v.shape) for v in model.trainable_variables]
    norms, losses = [], []
    for i in range(size):
        row = tf.nest.map_structure(lambda a, i=i: None if a is None else a[i], rows)
        gradients, loss = one_gradient(model, row)
        squares = {layer: 0.0 for layer in layers}
        for layer, g in zip(layers, gradients, strict=True):
            squares[layer] += np.sum(g * g)
        norm = np.sqrt(sum(squares.values()))
        norms.append(norm)
        losses.append(loss)
        if np.isfinite(norm):
            for total, layer, g in zip(sums, layers, gradients, strict=True):
                total += g * _number(
                    rule.factors(np.float32(squares[layer] ** 0.5), clip_norm, count)
                )
    return sums, np.array(norms), np.array(losses)


def _number(value):
    return float(keras.ops.convert_to_numpy(value))


def check(model, rows, clip_norm=None, tolerance=2e-5):
    """Compare the engine with the loop. Half of the examples are clipped by default."""
    _, norms, _ = looped(model, rows)
    clip_norm = float(np.median(norms)) if clip_norm is None else clip_norm
    sums, norms, losses = looped(model, rows, clip_norm)
    found = clipped(model, rows, clip_norm=clip_norm)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-4, atol=1e-6)
    scale = max(np.abs(total).max() for total in sums)
    for variable, total, expected in zip(model.trainable_variables, found.grads, sums, strict=True):
        assert total.dtype == tf.float32
        error = np.abs(total.numpy() - expected).max()
        assert error <= tolerance * max(scale, 1e-3), (variable.path, error, scale)
    return found
