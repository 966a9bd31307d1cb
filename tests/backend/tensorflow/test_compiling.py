"""Compiled functions: traced for new shapes only."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dp
from keras_dp import backend, step
from keras_dp.optimizers import DPSGD
from tests.kinds import L

X, Y = np.ones((40, 4), "float32"), np.ones((40, 2), "float32")


def tiny(**compiling):
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, L.Dense(2)(inputs))
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse", microbatch_size=8, **compiling)
    return model


def test_a_function_is_traced_once_for_equal_shapes_and_never_when_eager():
    traced = []

    def total(rows, count):
        traced.append(tf.executing_eagerly())
        return tf.reduce_sum(rows["a"]) + tf.cast(count, tf.float32)

    compiled = backend.compile_function(total)
    for count in range(3):
        found = compiled({"a": np.ones((2, count // 2 + 1), "float32"), "b": None}, np.int32(count))
        assert float(found) == 2 * (count // 2 + 1) + count
    assert traced == [False, False]
    backend.compile_function(total, eager=True)({"a": np.ones(2, "float32")}, np.int32(0))
    assert traced[2:] == [True]


@pytest.mark.parametrize(("eager", "tracings"), [(False, 1), (True, None)])
def test_updates_of_varying_sizes_are_traced_once(eager, tracings, monkeypatch):
    calls = []
    accumulate = step.accumulate

    def counted(*arguments):
        calls.append(tf.executing_eagerly())
        return accumulate(*arguments)

    monkeypatch.setattr(step, "accumulate", counted)
    model = tiny(run_eagerly=eager)
    model.fit(X, Y, batch_size=16, epochs=4, verbose=0)
    assert set(calls) == {eager}
    assert tracings is None or len(calls) == tracings


def test_every_run_of_a_compiled_update_draws_noise_anew():
    model = tiny(sampling="full_batch")
    model.optimizer.learning_rate = 1.0
    zeros = np.zeros((40, 4), "float32")
    moves = []
    for _ in range(3):
        before = model.get_weights()[0] if model.built else 0.0
        model.fit(zeros, np.zeros((40, 2), "float32"), verbose=0)
        moves.append(model.get_weights()[0] - before)
    assert not np.isin(moves[1], moves[2]).any()
