"""Replicas of a `tf.distribute.MirroredStrategy` train what one device trains."""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dp
from keras_dp.backend import host_noise
from keras_dp.backend.tensorflow.placing import Replicas
from tests.kinds import L, crossentropy

SIZE = 70


@functools.cache
def mirrored(count, number=0):
    """One strategy for all tests: TensorFlow's collectives cannot do with several in a process."""
    ops = None if (count, number) == (2, 0) else tf.distribute.ReductionToOneDevice()
    devices = [f"CPU:{i}" for i in range(count)]
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=ops)


def momentum():
    return keras_dp.optimizers.DPSGD(0.5, momentum=0.9, clip_norm=1.0, noise_multiplier=1.0, seed=1)


def adam():
    return keras_dp.optimizers.DPAdam(
        0.1, clip_norm=1.0, noise_multiplier=1.0, seed=1, use_ema=True, weight_decay=0.01
    )


def adaptive():
    return keras_dp.optimizers.DPSGD(
        0.5, clipping="adaptive", clip_norm=0.1, noise_multiplier=1.0, seed=1
    )


def made(strategy, units=2, **settings):
    """A model with the same weights everywhere, made where the strategy makes it."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = keras_dp.DPSequential(
            [keras.Input((4,)), L.Dense(5, activation="relu"), L.Dense(units)]
        )
        optimizer = settings.pop("optimizer", momentum)()
        settings = {"loss": crossentropy(), "metrics": ["accuracy"], **settings}
        model.compile(optimizer, **{"microbatch_size": 6, **settings})
        draw = np.random.default_rng(0)
        model.set_weights([draw.normal(size=w.shape) for w in model.get_weights()])
    return model


def data():
    x = np.random.default_rng(1).normal(size=(SIZE, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


def trained(strategy, **settings):
    model = made(strategy, **settings)
    return model, model.fit(*data(), batch_size=16, epochs=2, verbose=0).history


def assert_same(ours, theirs):
    (model, history), (other, expected) = ours, theirs
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5)
    spent = [each.privacy_statement(delta=1e-5).spent.epsilon for each in (model, other)]
    assert spent[0] == spent[1]
    assert model.ledger.updates == other.ledger.updates == 8


SETTINGS = {
    "microbatches": {},
    "one microbatch": {"microbatch_size": None},
    "microbatches of no whole parts": {"microbatch_size": 7},
    "several steps": {"steps_per_execution": 3},
    "losses that are sums": {"loss": keras.losses.SparseCategoricalCrossentropy(True, None, "sum")},
    "private metrics": {"private_metrics": keras_dp.PrivateMetrics(), "metrics": None},
    "adaptive clip norm": {"optimizer": adaptive},
    "averages": {"optimizer": adam},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_two_replicas_train_what_one_device_trains(settings):
    assert_same(trained(mirrored(2), **settings), trained(None, **settings))


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_replicas_trains_what_one_device_trains(count):
    assert_same(trained(mirrored(count)), trained(None))


def test_every_replica_has_the_same_weights():
    model, _ = trained(mirrored(3), optimizer=adam)
    for variable in [*model.variables, *model.optimizer.variables]:
        first, *others = variable._value.values
        assert len(others) == 2
        for other in others:
            np.testing.assert_array_equal(first.numpy(), other.numpy())


def test_fit_may_be_called_inside_of_the_scope():
    strategy = mirrored(2)
    model = made(strategy)
    with strategy.scope():
        history = model.fit(*data(), batch_size=16, epochs=2, verbose=0).history
    assert_same((model, history), trained(None))


def test_noise_is_drawn_once_for_an_update_and_has_the_stated_size(monkeypatch):
    """Noise of each replica would be sqrt(2) times as much, or, averaged, as little."""
    drawn = []
    noisy = host_noise.noisy
    monkeypatch.setattr(host_noise, "noisy", lambda *a: drawn.append(1) or noisy(*a))
    model = made(
        mirrored(2),
        5000,
        optimizer=lambda: keras_dp.optimizers.DPSGD(0.5, clip_norm=0.1, noise_multiplier=1.0),
        loss="mse",
        metrics=None,
    )
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    model.fit(np.zeros((64, 4)), np.zeros((64, 5000)), batch_size=16, epochs=1, verbose=0)
    assert len(drawn) == model.ledger.updates == 4
    moved = model.get_weights()[3].std() / (0.5 * 0.1 / 16 * np.sqrt(4))
    assert abs(moved - 1) < 0.05  # 5,000 numbers: 5 standard errors


def test_the_sums_are_added_up_once_for_each_microbatch(monkeypatch):
    """The traced program reduces each sum once, and nothing else."""
    reduced = []
    reduce = tf.distribute.MirroredStrategy.reduce

    def counted(self, operation, value, axis):
        if operation == "SUM":
            reduced.append(tuple(value.values[0].shape))
        return reduce(self, operation, value, axis)

    monkeypatch.setattr(tf.distribute.MirroredStrategy, "reduce", counted)
    model = made(mirrored(2), metrics=None)
    model.make_train_function()
    model.fit(*data(), batch_size=16, epochs=2, verbose=0)
    weights = [tuple(v.shape) for v in model.trainable_variables]
    assert reduced == [*weights, *([()] * len(model.metrics_variables))]


@pytest.mark.parametrize("first", [None, 2], ids=["one device first", "replicas first"])
def test_a_file_goes_from_replicas_to_one_device_and_back(first, tmp_path):
    path, strategies = tmp_path / "model.keras", [mirrored(2), None]
    before, after = strategies[::-1] if first is None else strategies
    model, _ = trained(before)
    model.save(path)
    with after.scope() if after else contextlib.nullcontext():
        loaded = keras.saving.load_model(path)
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    loaded.fit(*data(), batch_size=16, epochs=2, verbose=0)
    model.fit(*data(), batch_size=16, epochs=2, verbose=0)
    assert loaded.ledger.updates == model.ledger.updates == 16
    spent = [each.privacy_statement(delta=1e-5).spent.epsilon for each in (loaded, model)]
    assert spent[0] == spent[1]


@pytest.mark.parametrize("mistake", ["mean", "every replica sees all"])
def test_sums_that_are_put_together_wrongly_are_noticed(mistake, monkeypatch):
    if mistake == "mean":
        reduce = tf.distribute.MirroredStrategy.reduce
        monkeypatch.setattr(
            tf.distribute.MirroredStrategy,
            "reduce",
            lambda self, _, value, axis: reduce(self, "MEAN", value, axis),
        )
    else:
        monkeypatch.setattr(Replicas, "_part", lambda self, rows, number: rows)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same(trained(mirrored(2)), trained(None))


def test_what_was_made_elsewhere_is_refused():
    outside, strategy = made(None), mirrored(2)
    with strategy.scope(), pytest.raises(ValueError, match=r"Received '.*', made outside of it"):
        outside.fit(*data(), batch_size=16, verbose=0)
    inside = made(strategy)
    with mirrored(2, 1).scope(), pytest.raises(ValueError, match="made under another strategy"):
        inside.fit(*data(), batch_size=16, verbose=0)
    assert outside.ledger.updates == inside.ledger.updates == 0


def test_other_strategies_are_refused():
    strategy = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"])
    model = made(strategy)
    with pytest.raises(ValueError, match=r"one device, or on the replicas.*Received: "):
        model.fit(*data(), batch_size=16, verbose=0)
    assert model.ledger.updates == 0
