"""`jit_compile=True`: a compiled clipped sum is that of the model as it runs, for all arguments."""

import keras
import numpy as np
import pytest
import torch

import keras_dp
from keras_dp import backend

BATCH = 6


def private(make, **settings):
    keras.utils.set_random_seed(0)
    model = keras_dp.DPSequential([keras.Input((4, 4, 2)), *make()])
    optimizer = keras_dp.optimizers.DPSGD(0.5, clip_norm=0.1, noise_multiplier=1.0, seed=1)
    model.compile(optimizer, "mse", **{"jit_compile": True, **settings})
    return model


def convolutional():
    return [
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.GroupNormalization(2),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
    ]


def standardised():
    return [
        keras_dp.applications.WSConv2D(4, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3),
    ]


def examples(seed):
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(BATCH, 4, 4, 2)), draw.normal(size=(BATCH, 3))
    return {
        "x": torch.tensor(x, dtype=torch.float32),
        "y": torch.tensor(y, dtype=torch.float32),
        "sample_weight": None,
        "position": torch.arange(BATCH, dtype=torch.int32),
    }


def clipped(model, rows, valid, clip_norm, scale):
    params, others, metrics = (
        [v.value.detach() for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.metrics_variables,
        )
    )
    params = [scale * value for value in params]
    return backend.clip_examples(model, params, others, metrics, rows, valid, clip_norm)


ARGUMENTS = [
    (0, [1, 1, 1, 1, 1, 1], 0.1, 1.0),
    (1, [1, 0, 1, 1, 1, 0], 0.1, 1.0),
    (1, [0, 0, 0, 0, 0, 0], 0.1, 1.0),
    (2, [1, 1, 1, 1, 1, 1], 3.0, -2.0),
]


@pytest.fixture
def traced(monkeypatch):
    """Programs are traced, and run as they are."""
    monkeypatch.setattr(torch, "compile", lambda graph, dynamic: graph)


@pytest.mark.parametrize("make", [convolutional, standardised], ids=lambda make: make.__name__)
@pytest.mark.usefixtures("traced")
def test_a_program_keeps_no_value_of_the_arguments_that_it_was_traced_with(make, recwarn):
    model = private(make)
    run = backend.compile_function(lambda *arguments: clipped(model, *arguments))
    for seed, valid, clip_norm, scale in ARGUMENTS:
        rows, valid = examples(seed), torch.tensor(valid, dtype=torch.bool)
        found = run(rows, valid, np.float32(clip_norm), scale)
        expected = clipped(model, rows, valid, np.float32(clip_norm), scale)
        np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-5)
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
        for actual, right in zip(found.grads, expected.grads, strict=True):
            np.testing.assert_allclose(actual, right, rtol=1e-4, atol=1e-6)
    assert not [w for w in recwarn if "jit_compile" in str(w.message)]


@pytest.mark.usefixtures("traced")
def test_examples_that_are_not_numbers_add_nothing_in_a_program_either():
    model = private(convolutional)
    run = backend.compile_function(lambda *arguments: clipped(model, *arguments))
    rows, valid = examples(0), torch.ones(BATCH, dtype=torch.bool)
    run(rows, valid, np.float32(0.1), 1.0)
    rows["x"][2] = np.nan
    found = run(rows, valid, np.float32(0.1), 1.0)
    expected = clipped(model, rows, valid, np.float32(0.1), 1.0)
    for actual, right in zip(found.grads, expected.grads, strict=True):
        assert np.isfinite(actual).all()
        np.testing.assert_allclose(actual, right, rtol=1e-4, atol=1e-6)


def fitted(model, updates=3):
    draw = np.random.default_rng(3)
    x, y = draw.normal(size=(64, 4, 4, 2)), draw.normal(size=(64, 3))
    model.fit(x, y, batch_size=16, steps_per_epoch=updates, verbose=0)
    return model.get_weights()


def test_training_compiled_equals_training_as_it_runs():
    compiled, plain = (private(convolutional, jit_compile=jit) for jit in (True, False))
    for actual, expected in zip(fitted(compiled), fitted(plain), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    spent = [model.privacy_statement(delta=1e-5).spent.epsilon for model in (compiled, plain)]
    assert spent[0] == spent[1]


@pytest.mark.usefixtures("traced")
def test_noise_is_no_part_of_a_program():
    model = private(lambda: [keras.layers.Flatten(), keras.layers.Dense(1000)])
    x, y = np.zeros((32, 4, 4, 2)), np.zeros((32, 1000))
    steps = []
    for _ in range(3):
        before = model.get_weights()
        model.fit(x, y, batch_size=16, steps_per_epoch=1, verbose=0)
        steps.append(model.get_weights()[0] - before[0])
    sigma = 0.5 * 1.0 * 0.1 / 16
    for step in steps:
        assert abs(step.std() / sigma - 1) < 0.02  # 32,000 numbers: 5 standard errors
    assert np.abs(np.corrcoef([step.ravel() for step in steps])[np.triu_indices(3, 1)]).max() < 0.03


@pytest.mark.usefixtures("traced")
def test_random_numbers_of_layers_are_not_kept_in_a_program():
    def dropped():
        return [keras.layers.Dropout(0.5, seed=1), keras.layers.Flatten(), keras.layers.Dense(3)]

    with pytest.warns(UserWarning, match="`jit_compile=True` has no effect on the clipping"):
        found = fitted(private(dropped))
    for actual, expected in zip(found, fitted(private(dropped, jit_compile=False)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("look", ["numpy", "tolist", "item"])
@pytest.mark.usefixtures("traced")
def test_values_that_python_looks_at_are_not_kept_in_a_program(look):
    class Scaled(keras.layers.Dense):
        def call(self, inputs):
            value = getattr(self.kernel.value.detach().abs().mean(), look)()
            return super().call(inputs) * float(value)

    with pytest.warns(UserWarning, match="looks at values, which a program would keep"):
        fitted(private(lambda: [keras.layers.Flatten(), Scaled(3)]))


@pytest.mark.usefixtures("traced")
def test_run_eagerly_traces_nothing(monkeypatch):
    monkeypatch.setattr("keras_dp.backend.torch.programs.make_fx", None)
    fitted(private(convolutional, jit_compile=False, run_eagerly=True))
