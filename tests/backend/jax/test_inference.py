"""How many examples run together, and that the engine's faster forms are used."""

import keras
import numpy as np
import pytest

from keras_dp import backend
from keras_dp.backend.jax import inference
from keras_dp.backend.jax.clipping.jaxpr import rewrites
from keras_dp.backend.jax.memory import Memory


def pointwise(outputs):
    """A model of one operation, which reads 16 and writes `outputs` channels of 64x64."""
    inputs = keras.Input((64, 64, 16))
    return keras.Model(inputs, keras.layers.Conv2D(outputs, 1, use_bias=False)(inputs))


def size_of(model):
    rows = np.zeros((2, *model.input_shape[1:]), "float32")
    return backend.inference_size(model, model.variables, rows)


@pytest.mark.parametrize(
    ("outputs", "size"),
    [(48, 16), (49, 8), (16, 32), (1024, 1)],  # 4 bytes * 4096 * (16 + 48) = 1 MiB of the 16
)
def test_on_cpu_the_largest_operation_stays_within_16_mib(outputs, size):
    assert size_of(pointwise(outputs)) == size


def test_large_weights_and_small_inputs_run_many_at_a_time():
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(5000, use_bias=False)(inputs)
    assert size_of(keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(hidden))) == 512
    assert size_of(keras.Model(inputs, keras.layers.Dense(2)(inputs))) == 1024


def test_accelerators_take_what_fits_their_memory(monkeypatch):
    model = pointwise(48)
    monkeypatch.setattr(inference.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(inference, "microbatch_memory", lambda: Memory(2**30, 2**30))
    assert size_of(model) == 256  # a quarter of 1 GiB, in pieces of 1 MiB


def test_depthwise_convolutions_take_their_faster_form(monkeypatch):
    inputs = keras.Input((9, 9, 6))
    model = keras.Model(inputs, keras.layers.DepthwiseConv2D(3)(inputs))
    used = []
    form = rewrites._depthwise
    monkeypatch.setattr(rewrites, "_depthwise", lambda *a: used.append(1) or form(*a))
    x = np.random.default_rng(0).normal(size=(4, 9, 9, 6)).astype("float32")
    expected = model.predict(x, verbose=0)  # first: it gives the weights other arrays
    run = backend.compile_inference(model, model.variables)
    np.testing.assert_allclose(run(x), expected, atol=1e-5 * np.abs(expected).max())
    assert used
