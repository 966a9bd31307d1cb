"""The slow oracle: Keras' own loss of one example at a time, and its gradient by the backend.

The only module of the contract that knows which backend runs.
"""

import functools
import math

import keras
import numpy as np

FACTORS = {
    "flat": lambda norm, bound: min(1, bound / norm),
    "unit_norm": lambda norm, bound: min(1 / bound, 1 / norm),
    "automatic": lambda norm, bound: 1 / (norm + 0.01),
    "adaptive": lambda norm, bound: min(1, bound / norm),
}
"""What each clip rule multiplies a gradient with, by its published formula."""


def gradients(case):
    """Return, for each example, the gradient of the plain model's loss as float64 arrays.

    Args:
        case: A `tests.kinds.Case`.
    """
    model = case.plain
    model.compile("sgd", loss=case.loss)
    gradient = _GRADIENTS[keras.backend.backend()](model)
    data = (case.x, case.y, case.sample_weight)
    size = len(keras.tree.flatten(case.y)[0])
    found = []
    for i in range(size):
        one = keras.tree.map_structure(lambda a, i=i: None if a is None else a[i : i + 1], data)
        found.append([np.asarray(g, np.float64) for g in gradient(*one)])
    return found


def norms(grads):
    """Return the norm of each example's gradient."""
    return np.array([norm(of_one) for of_one in grads])


def norm(arrays):
    """Return the norm of all arrays together."""
    return math.sqrt(sum(float(np.sum(array**2)) for array in arrays))


def clipped_sum(grads, bound, rule="flat"):
    """Sum the gradients, each scaled by the rule's factor."""
    scaled = [[FACTORS[rule](norm(one), bound) * g for g in one] for one in grads]
    return [np.sum(parts, axis=0) for parts in zip(*scaled, strict=True)]


def clipped_by_layer(grads, bound, layers):
    """Sum the gradients, those of each layer clipped to its share of the bound.

    Args:
        grads: A list of arrays for each example.
        bound: The clip norm.
        layers: The layer of each array.
    """
    share = bound / math.sqrt(len(set(layers)))
    totals = [0.0] * len(layers)
    for of_one in grads:
        for i, layer in enumerate(layers):
            together = [g for g, other in zip(of_one, layers, strict=True) if other == layer]
            totals[i] = totals[i] + min(1, share / norm(together)) * of_one[i]
    return totals


def _jax(model):
    import jax

    others = [variable.value for variable in model.non_trainable_variables]

    def loss(values, x, y, weight):
        mapping = list(zip(model.trainable_variables, values, strict=True))
        mapping += list(zip(model.non_trainable_variables, others, strict=True))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
            return model.compute_loss(x, y, model(x, training=True), weight)

    values = [variable.value for variable in model.trainable_variables]
    return functools.partial(jax.jit(jax.grad(loss)), values)


def _torch(model):
    def gradient(x, y, weight):
        model.zero_grad()
        x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
        y = keras.tree.map_structure(keras.ops.convert_to_tensor, y)
        model.compute_loss(x, y, model(x, training=True), weight).backward()
        found = [variable.value.grad for variable in model.trainable_variables]
        pairs = zip(found, model.trainable_variables, strict=True)
        return [np.zeros(v.shape) if g is None else g.numpy().copy() for g, v in pairs]

    return gradient


def _tensorflow(model):
    import tensorflow

    def gradient(x, y, weight):
        with tensorflow.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True), weight)
        values = [variable.value for variable in model.trainable_variables]
        zero = tensorflow.UnconnectedGradients.ZERO
        found = tape.gradient(loss, values, unconnected_gradients=zero)
        return [tensorflow.convert_to_tensor(g).numpy() for g in found]

    return gradient


_GRADIENTS = {"jax": _jax, "torch": _torch, "tensorflow": _tensorflow}
