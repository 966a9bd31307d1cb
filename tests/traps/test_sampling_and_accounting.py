"""Traps 14 to 24: an epsilon that sampling and bookkeeping do not earn."""

import inspect

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import PrivacyBudgetExceeded, accounting
from keras_dp.optimizers import DPSGD
from keras_dp.run import PrivateRun
from tests.traps.common import DELTA, L, data, private, released


@pytest.fixture
def draws(monkeypatch):
    seen, draw = [], PrivateRun.draw

    def recorded(run):
        seen.append(draw(run).indices)
        return keras_dp.types.SampledBatch(seen[-1])

    monkeypatch.setattr(PrivateRun, "draw", recorded)
    return seen


def test_14_shuffled_batches_never_get_a_poisson_epsilon():
    """B=512 of 60,000, 10 epochs, noise 1: 1.66 as Poisson, 17.9 without amplification."""
    settings = {"noise_multiplier": 1.0, "batch_size": 512, "dataset_size": 60_000, "delta": 1e-5}
    settings |= {"updates": 1170}
    assert accounting.epsilon(sampling="poisson", **settings) == pytest.approx(1.66, abs=0.01)
    assert accounting.epsilon(sampling="shuffle", **settings) == pytest.approx(17.9, abs=0.1)
    model = private(noise_multiplier=1.0, sampling="shuffle")
    model.fit(*data(), batch_size=10, epochs=2, verbose=0)
    spent = model.privacy_spent(delta=DELTA)
    full = {"batch_size": 40, "dataset_size": 40, "updates": 2, "sampling": "full_batch"}
    expected = accounting.epsilon(noise_multiplier=1.0, delta=DELTA, **full)
    assert spent.sampling == "shuffle"
    assert spent.epsilon == pytest.approx(expected)


def test_15_one_draw_is_made_for_a_whole_update_so_no_example_enters_it_twice(draws):
    model = private(noise_multiplier=1.0, microbatch_size=4)
    model.fit(*data(), batch_size=32, epochs=20, verbose=0)
    assert len(draws) == 20
    assert all(len(np.unique(indices)) == len(indices) for indices in draws)


def test_16_microbatches_are_not_counted_as_updates():
    epsilons = set()
    for microbatch_size in (1, 8, 40):
        model = private(noise_multiplier=1.0, microbatch_size=microbatch_size)
        model.fit(*data(), batch_size=20, epochs=2, verbose=0)
        assert model.ledger.updates == 4
        epsilons.add(model.privacy_spent(delta=DELTA).epsilon)
    assert len(epsilons) == 1


def test_17_the_sum_is_divided_by_the_declared_batch_size(draws):
    """All gradients are equal, so the step tells what the sum was divided by."""
    x, y = np.ones((40, 4), "float32"), np.full((40, 2), -1e6, "float32")
    model = private(layers=[L.Dense(2, kernel_initializer="zeros")], clip_norm=1.0, seed=0)
    before = model.get_weights()[0].copy()
    model.fit(x, y, batch_size=10, steps_per_epoch=1, verbose=0)
    move = np.sqrt(sum(np.sum(np.square(w)) for w in model.get_weights()) - np.sum(before**2))
    assert len(draws[0]) != 10  # or the divisor could be the number drawn
    assert move == pytest.approx(len(draws[0]) / 10, rel=1e-3)


def test_18_an_empty_draw_is_a_noisy_counted_update(monkeypatch):
    monkeypatch.setattr(
        PrivateRun, "draw", lambda run: keras_dp.types.SampledBatch(np.zeros(0, np.int64))
    )
    model = private(noise_multiplier=1.0, seed=0)
    before = model.get_weights()
    model.fit(*data(), batch_size=1, steps_per_epoch=1, verbose=0)
    assert model.ledger.updates == 1
    assert all(
        np.abs(new - old).min() > 0 for new, old in zip(model.get_weights(), before, strict=True)
    )


@pytest.mark.parametrize("size", [93, 99, 105])
def test_19_an_epoch_of_batches_of_one_has_as_many_updates_as_examples(size):
    model = private(noise_multiplier=1.0)
    model.fit(*data(size), batch_size=1, verbose=0)
    assert model.ledger.updates == size


def test_20_a_small_epsilon_is_met_without_tolerance():
    settings = {"batch_size": 100, "dataset_size": 10_000, "updates": 100, "delta": 1e-6}
    noise = accounting.noise_multiplier(epsilon=0.05, **settings)
    assert 0.0495 < accounting.epsilon(noise_multiplier=noise, **settings) <= 0.05


def test_21_the_budget_holds_through_every_door(tmp_path):
    budget = keras_dp.Budget(epsilon=3.0, delta=DELTA)
    fitting = accounting.updates(
        epsilon=3.0, delta=DELTA, noise_multiplier=2.0, batch_size=10, dataset_size=40
    )

    def compiled(model):
        model.compile(DPSGD(0.1, noise_multiplier=2.0), "mse", budget=budget)
        return model

    x, y = data()
    model = compiled(keras_dp.DPSequential([keras.Input((4,)), L.Dense(2)]))
    model.fit(x, y, batch_size=10, steps_per_epoch=fitting, verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = compiled(keras_dp.DPSequential([keras.Input((4,)), L.Dense(2)]))
    fresh.load_weights(tmp_path / "model.weights.h5")
    models = {
        "a second fit": model,
        "compiled anew": compiled(model),
        "loaded": keras.saving.load_model(tmp_path / "model.keras"),
        "loaded weights": fresh,
        "a clone": compiled(keras.models.clone_model(model)),
    }
    for each in models.values():
        weights = each.get_weights()
        with pytest.raises(PrivacyBudgetExceeded, match="allows no further update"):
            each.fit(x, y, batch_size=10, verbose=0)
        with pytest.raises(PrivacyBudgetExceeded, match="allows no further update"):
            each.fit(x, y, batch_size=10, validation_split=0.5, verbose=0)
        with pytest.raises(PrivacyBudgetExceeded, match="would pass the privacy budget"):
            each.train_on_batch(x, y)
        np.testing.assert_array_equal(weights[0], each.get_weights()[0])


def test_22_state_of_the_model_itself_is_found_by_name():
    class Counting(keras_dp.DPModel):
        def __init__(self):
            super().__init__()
            self.own = self.add_weight(shape=(), trainable=False, initializer="zeros", name="own")
            self.dense = L.Dense(2)

        def call(self, inputs):
            self.own.assign(self.own + 1.0)
            return self.dense(inputs)

    model = Counting()
    model.compile(DPSGD(0.1, noise_multiplier=1.0), "mse")
    model.fit(*data(), batch_size=10, epochs=2, verbose=0)
    assert model.ledger.updates == 8
    assert int(model.optimizer.updates) == 8
    assert float(model.own) == 8


def test_23_a_resumed_run_counts_all_once_and_repeats_no_noise(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt("stopped by hand")

    def run(callbacks):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        model = private(noise_multiplier=1.0, seed=1)
        model.fit(*data(), batch_size=10, epochs=4, verbose=0, callbacks=[backup, *callbacks])
        return model

    with pytest.raises(KeyboardInterrupt, match="stopped by hand"):
        run([Stop()])
    resumed = run([])
    assert resumed.ledger.updates == 16
    assert [release.updates for release in resumed.ledger.releases] == [8, 8]


def test_24_the_library_does_the_arithmetic_of_sizes():
    """No argument asks for a number of steps, a training size or an accumulation."""
    asked = set(inspect.signature(keras_dp.DPModel.compile).parameters)
    asked |= set(inspect.signature(DPSGD).parameters)
    assert not asked & {"train_steps", "train_size", "gradient_accumulation_steps", "num_samples"}
    model = private(noise_multiplier=1.0)
    model.fit(*data(), batch_size=10, epochs=3, validation_split=0.5, verbose=0)
    (release,) = model.ledger.releases
    assert (release.updates, release.plan.dataset_size, release.plan.batch_size) == (6, 20, 10)
    with pytest.raises(ValueError, match="gradient_accumulation_steps"):
        DPSGD(0.1, noise_multiplier=1.0, gradient_accumulation_steps=2)


def test_released_is_the_gradient_that_these_tests_take_it_for():
    """The oracle of this folder: without clip and noise it is Keras' own gradient."""
    x, y = data()
    model = private(clip_norm=1e6, sampling="full_batch")
    kernel, bias = (w.copy() for w in model.get_weights())
    error = (x @ kernel + bias - y) / 40
    expected = np.concatenate([(x.T @ error).ravel(), error.sum(0)])
    np.testing.assert_allclose(released(model, x, y), expected, atol=1e-5)
