"""Frozen int8 backbones with low-rank adapters: exact norms, and nothing else is trained."""

from types import SimpleNamespace

import jax.numpy as jnp
import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.optimizers import DPSGD
from tests.zoo import oracle

pytestmark = pytest.mark.usefixtures("unoptimized")

L = keras.layers
ADAPTERS = ("_a", "_b")
EINSUM = "abc,cd->abd"
MODELS = {
    "dense": ((6,), lambda: [L.Dense(8, activation="tanh"), L.Dense(3)]),
    "dense, positions": ((5, 6), lambda: [L.Dense(8, activation="tanh"), L.Dense(3)]),
    "einsum": (
        (5, 6),
        lambda: [
            L.EinsumDense(EINSUM, (5, 8), bias_axes="d", activation="tanh"),
            L.EinsumDense(EINSUM, (5, 3)),
        ],
    ),
    "embedding": ((5,), lambda: [L.Embedding(11, 8), L.Dense(3)]),
}


def problem(kind):
    """Return a quantised backbone with random adapters, inputs and targets."""
    shape, make = MODELS[kind]
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    tokens = kind == "embedding"
    inputs = keras.Input(shape, dtype="int32" if tokens else "float32")
    outputs = inputs
    for layer in make():
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs)
    model.quantize("int8")
    for layer in model.layers[1:]:
        layer.enable_lora(rank=2)
        if getattr(layer, "bias", None) is not None:
            layer.bias.trainable = False
    for variable in model.trainable_variables:
        variable.assign(0.3 * rng.normal(size=variable.shape))
    x = rng.integers(0, 11, (6, 5)) if tokens else rng.normal(size=(6, *shape)).astype("float32")
    return model, x, rng.normal(size=(6, *outputs.shape[1:])).astype("float32")


def squares(y, outputs):
    return jnp.sum(jnp.square(outputs - y))


@pytest.mark.parametrize("kind", MODELS)
def test_norms_and_sums_of_adapters_equal_the_loop(kind):
    model, x, y = problem(kind)
    assert len(model.trainable_variables) == 4
    assert any(v.dtype == "int8" for v in model.non_trainable_variables)
    oracle.check(SimpleNamespace(model=model, loss=[squares], x=x, y=[y], description=kind))


@pytest.mark.parametrize("kind", ["dense", "embedding"])
def test_private_training_moves_adapters_and_nothing_else(kind):
    model, x, y = problem(kind)
    before = {v.path: np.array(v) for v in model.variables}
    private = keras_dp.make_private(model)
    private.compile(DPSGD(0.1, clip_norm=1.0, noise_multiplier=1.0), loss="mse")
    private.fit(x, y, batch_size=3, epochs=1, verbose=0)
    moved = {v.path for v in model.variables if not np.array_equal(np.array(v), before[v.path])}
    assert moved == {v.path for v in model.variables if v.path.endswith(ADAPTERS)}
    assert len(moved) == 4
