"""Training with every sampling scheme: what is drawn is what the ledger counts."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import accounting
from keras_dp.errors import PrivacyBudgetExceeded
from keras_dp.optimizers import DPSGD
from keras_dp.run import PrivateRun
from tests.kinds import tiny, tiny_data

DELTA = 1e-3


@pytest.fixture
def draws(monkeypatch):
    """Every batch that a run draws, in order."""
    seen, draw = [], PrivateRun.draw

    def recorded(run):
        seen.append(draw(run))
        return seen[-1]

    monkeypatch.setattr(PrivateRun, "draw", recorded)
    return seen


def trainable(sampling, seed=None, budget=None, noise_multiplier=1.0):
    optimizer = DPSGD(0.1, clip_norm=1.0, noise_multiplier=noise_multiplier, seed=seed)
    return tiny(optimizer=optimizer, sampling=sampling, budget=budget)


def expected_epsilon(updates, sampling, **settings):
    return accounting.epsilon(
        noise_multiplier=1.0,
        batch_size=20,
        dataset_size=100,
        updates=updates,
        delta=DELTA,
        sampling=sampling,
        **settings,
    )


@pytest.mark.parametrize("sampling", ["poisson", "truncated_poisson", "balls_in_bins", "shuffle"])
def test_epsilon_of_a_fit_is_that_of_its_sampling(sampling):
    model = trainable(sampling)
    model.fit(*tiny_data(), batch_size=20, epochs=3, verbose=0)
    spent = model.privacy_spent(delta=DELTA)
    assert spent.updates == 15
    assert spent.sampling == sampling
    assert spent.epsilon == expected_epsilon(15, sampling)
    relation = "replace_special" if sampling == "shuffle" else "add_or_remove_one"
    assert spent.neighbouring_relation == relation


@pytest.mark.parametrize("sampling", ["balls_in_bins", "shuffle"])
def test_each_example_enters_one_update_of_an_epoch(sampling, draws):
    model = trainable(sampling)
    model.fit(*tiny_data(), batch_size=20, epochs=3, verbose=0)
    for epoch in range(3):
        parts = [batch.indices for batch in draws[5 * epoch : 5 * epoch + 5]]
        assert sorted(np.concatenate(parts)) == list(range(100))
    assert sorted(draws[0].indices) != sorted(draws[5].indices)


@pytest.mark.parametrize("sampling", ["balls_in_bins", "shuffle"])
def test_a_second_fit_begins_a_new_epoch_and_pays_for_it(sampling, draws):
    model = trainable(sampling)
    for _ in range(2):
        model.fit(*tiny_data(), batch_size=20, steps_per_epoch=2, verbose=0)
    assert model.ledger.updates == 4
    assert model.privacy_spent(delta=DELTA).epsilon == expected_epsilon(10, sampling)
    first, second = (
        set(np.concatenate([b.indices for b in part])) for part in (draws[:2], draws[2:])
    )
    assert first != second


def test_a_seeded_epoch_is_repeated_and_the_next_one_differs(draws):
    for _ in range(2):
        trainable("balls_in_bins", seed=3).fit(*tiny_data(), batch_size=20, epochs=2, verbose=0)
    found = [tuple(batch.indices) for batch in draws]
    assert found[:10] == found[10:]
    assert found[:5] != found[5:10]


def test_a_truncated_batch_is_never_larger_than_declared(draws):
    model = trainable(keras_dp.sampling.TruncatedPoisson(largest_batch=21))
    model.fit(*tiny_data(), batch_size=20, epochs=8, verbose=0)
    sizes = [len(batch.indices) for batch in draws]
    assert max(sizes) == 21
    assert sizes.count(21) >= 3  # of 40, each with probability 0.44: missed once in 1e7
    assert min(sizes) < 20
    spent = model.privacy_spent(delta=DELTA).epsilon
    assert spent == expected_epsilon(40, "truncated_poisson", largest_batch=21)
    assert spent > 1.1 * expected_epsilon(40, "poisson")


@pytest.mark.parametrize("sampling", ["truncated_poisson", "balls_in_bins", "shuffle"])
def test_calibrated_noise_lets_the_planned_updates_just_fit(sampling):
    budget = keras_dp.Budget(epsilon=2.0, delta=DELTA)
    model = trainable(sampling, budget=budget, noise_multiplier=None)
    model.fit(*tiny_data(), batch_size=20, epochs=4, verbose=0)
    assert model.ledger.updates == 20
    assert 0.99 * budget.epsilon < model.privacy_spent().epsilon <= budget.epsilon
    with pytest.raises(PrivacyBudgetExceeded, match="allows no further update"):
        model.fit(*tiny_data(), batch_size=20, verbose=0)


def test_the_budget_stops_a_run_at_the_end_of_an_epoch_that_is_paid_for():
    most = accounting.updates(
        epsilon=6.0,
        delta=DELTA,
        noise_multiplier=1.0,
        batch_size=20,
        dataset_size=100,
        sampling="balls_in_bins",
    )
    budget = keras_dp.Budget(epsilon=6.0, delta=DELTA)
    model = trainable("balls_in_bins", budget=budget)
    stop = keras_dp.callbacks.PrivacyBudget(6.0, DELTA)
    model.fit(*tiny_data(), batch_size=20, epochs=100, verbose=0, callbacks=[stop])
    assert model.ledger.updates == most
    assert most % 5 == 0


@pytest.mark.parametrize(
    "sampling", [keras_dp.sampling.TruncatedPoisson(25), keras_dp.sampling.BallsInBins()]
)
def test_the_scheme_and_its_arguments_are_saved_with_the_model(sampling, tmp_path):
    model = trainable(sampling)
    model.fit(*tiny_data(), batch_size=20, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert repr(loaded.sampler) == repr(sampling)
    assert loaded.privacy_spent(delta=DELTA) == model.privacy_spent(delta=DELTA)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 5, 5], "at most once for an update. Received: position 5 more than once"),
        ([0, 100], "positions from 0 to 99. Received: 0 to 100"),
        ([-1, 3], "positions from 0 to 99. Received: -1 to 3"),
        ([0.5, 1.0], "whole numbers. Received: shape .2,., dtype float64"),
        ([[1, 2]], "one-dimensional array"),
    ],
)
def test_a_sampler_that_draws_what_no_scheme_may_draw_is_refused(indices, message):
    class Wrong(keras_dp.sampling.Poisson):
        def draw(self, rng, batch_size, dataset_size):
            return [keras_dp.types.SampledBatch(np.array(indices))]

    model = trainable(Wrong())
    weights = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(*tiny_data(), batch_size=20, verbose=0)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert model.ledger.updates == 1  # written before the draw
