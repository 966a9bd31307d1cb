"""Other precisions on PyTorch: sums in float32, scales that are tried again, float64 throughout."""

import keras
import numpy as np
import pytest
import torch

import keras_dp
from keras_dp import backend
from keras_dp.backend.float16 import FLOAT16_SCALE
from tests.contract import oracle
from tests.kinds import Case, L, crossentropy

SIZE = 5


@pytest.fixture
def in_float64():
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)


def build(cls, policy=None):
    inputs = keras.Input((5, 4))
    x = L.LSTM(4, return_sequences=True, dtype=policy)(inputs)
    x = L.LayerNormalization(dtype=policy)(x + L.MultiHeadAttention(2, 3, dtype=policy)(x, x))
    return cls(inputs, L.Dense(3, dtype=policy)(L.Flatten(dtype=policy)(x)))


def make(policy=None):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(SIZE, 5, 4)), rng.integers(3, size=SIZE)
    private, plain = build(keras_dp.DPModel, policy), build(keras.Model)
    weights = [rng.normal(scale=0.5, size=w.shape) for w in plain.get_weights()]
    for model in (private, plain):
        model.set_weights(weights)
    return Case(plain, private, x.astype(keras.config.floatx()), y, crossentropy())


def clipped(case, clip_norm, loss=None):
    model = case.private
    optimizer = keras_dp.optimizers.DPSGD(0.5, clip_norm=clip_norm, noise_multiplier=1.0, seed=1)
    model.compile(optimizer, loss or case.loss, metrics=["accuracy"])
    kinds = model.trainable_variables, model.non_trainable_variables, model.metrics_variables
    state = [[variable.value for variable in variables] for variables in kinds]
    rows = {"x": case.x, "y": case.y, "sample_weight": None, "position": np.arange(SIZE)}
    return backend.clip_examples(model, *state, rows, torch.ones(SIZE) > 0, clip_norm)


def test_a_model_in_float64_equals_the_loop_to_the_rounding_of_float32(in_float64):
    case = make()
    grads = oracle.gradients(case)
    bound = float(np.median(oracle.norms(grads)))
    found = clipped(case, bound)
    assert {v.dtype for v in case.private.trainable_variables} == {"float64"}
    np.testing.assert_allclose(found.norms, oracle.norms(grads), rtol=1e-6)
    for actual, expected in zip(found.grads, oracle.clipped_sum(grads, bound), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    before = case.private.get_weights()
    case.private.fit(case.x, case.y, verbose=0)
    after = case.private.get_weights()
    assert all(np.any(a != b) and a.dtype == np.float64 for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_sums_and_norms_are_float32_whatever_the_policy(policy):
    found = clipped(make(policy), 1.0)
    assert {t.dtype for t in (*found.grads, found.norms)} == {torch.float32}


@pytest.mark.parametrize("steep", [1.0, 2000.0])
def test_gradients_that_overflow_at_the_first_scale_are_taken_at_a_smaller_one(steep):
    """The second loss' gradient times the scale is beyond what float16 holds, 65,504."""

    def loss(y, y_pred):
        return steep * keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)

    assert 2000.0 * FLOAT16_SCALE > 5 * 65504
    case = make("mixed_float16")
    norms = steep * oracle.norms(oracle.gradients(case))
    np.testing.assert_allclose(clipped(case, 1.0, loss).norms, norms, rtol=2e-2)
