"""Models of other dtypes: one update is that of the same model in float32, up to their rounding."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.optimizers import DPSGD
from tests.contract import oracle
from tests.contract.models import SIZE, full_batch, moved, trained_weights
from tests.kinds import Case, L, crossentropy

ROUNDING = {
    "mixed_float16": 2e-3,
    "mixed_bfloat16": 2e-2,
    "float16": 4e-3,
    "bfloat16": 4e-2,
    "float64": 1e-5,
}
"""What each dtype policy rounds away of a sum, relative to its norm."""


def build(cls, policy):
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(4, 3, activation="tanh", dtype=policy)(inputs)
    x = L.Flatten(dtype=policy)(L.LayerNormalization(dtype=policy)(x))
    return cls(inputs, L.Dense(3, dtype=policy)(L.Dense(8, activation="tanh", dtype=policy)(x)))


@pytest.mark.parametrize("policy", ROUNDING)
def test_an_update_is_that_of_the_model_in_float32_but_for_rounding(policy):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(SIZE, 6, 6, 2)), rng.integers(3, size=SIZE)
    private, plain = build(keras_dp.DPModel, policy), build(keras.Model, "float32")
    case = Case(plain, private, x.astype("float32"), y, crossentropy())
    private.set_weights(plain.get_weights())
    grads = oracle.gradients(case)
    clip_norm = float(np.median(oracle.norms(grads)))
    before = trained_weights(private)
    full_batch(private, DPSGD(1.0, clip_norm=clip_norm, noise_multiplier=0.0), case.loss)
    private.fit(case.x, case.y, verbose=0)
    found = [np.asarray(part, np.float64) for part in moved(before, private)]
    expected = oracle.clipped_sum(grads, clip_norm)
    left = oracle.norm([a - b for a, b in zip(found, expected, strict=True)])
    assert left < ROUNDING[policy] * oracle.norm(expected)
    assert oracle.norm(found) > 0.5 * oracle.norm(expected)
