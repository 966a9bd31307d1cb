"""The budget holds in the model: what would pass it is refused and changes nothing."""

import contextlib

import numpy as np
import pytest

import keras_dp
from keras_dp import accounting
from keras_dp.optimizers import DPSGD
from tests.kinds import tiny, tiny_data

BUDGET = keras_dp.Budget(epsilon=2.0, delta=1e-3)
FITTING = accounting.updates(
    epsilon=2.0, delta=1e-3, noise_multiplier=2.0, batch_size=20, dataset_size=100
)


def budgeted(noise_multiplier=2.0, budget=BUDGET):
    optimizer = DPSGD(0.1, clip_norm=1.0, noise_multiplier=noise_multiplier)
    return tiny(optimizer=optimizer, budget=budget)


def train(model, updates, **arguments):
    return model.fit(*tiny_data(), batch_size=20, steps_per_epoch=updates, verbose=0, **arguments)


@contextlib.contextmanager
def refused(model, message):
    """Expect a refusal that leaves weights, optimizer and ledger as they are."""
    before = [np.array(v.numpy()) for v in (*model.variables, *model.optimizer.variables)]
    updates, spent = model.ledger.updates, model.privacy_spent(1e-3)
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match=message):
        yield
    after = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    for old, new in zip(before, after, strict=False):
        np.testing.assert_array_equal(old, new)
    assert (model.ledger.updates, model.privacy_spent(1e-3)) == (updates, spent)


def test_a_plan_that_passes_the_budget_is_refused_and_one_that_just_fits_is_not():
    model = budgeted()
    with refused(model, f"planned {FITTING + 1} updates.*{FITTING} mo"):
        train(model, FITTING + 1)
    train(model, FITTING)
    assert 0.9 * BUDGET.epsilon < model.privacy_spent().epsilon <= BUDGET.epsilon
    with refused(model, "allows no further update"):
        train(model, 1)
    with refused(model, "next update would pass the privacy budget"):
        model.train_on_batch(*tiny_data(20))


def test_train_on_batch_is_accounted_without_amplification_and_refused_at_the_budget():
    def once(updates):
        settings = {"noise_multiplier": 4.0, "batch_size": 20, "dataset_size": 20}
        return accounting.epsilon(**settings, updates=updates, delta=1e-3, sampling="full_batch")

    model = budgeted(4.0)
    made = 0
    while once(made + 1) <= BUDGET.epsilon:
        model.train_on_batch(*tiny_data(20))
        made += 1
        assert model.privacy_spent().epsilon == pytest.approx(once(made))
    assert made > 1
    with refused(model, "next update would pass the privacy budget"):
        model.train_on_batch(*tiny_data(20))


def test_the_callback_stops_before_the_update_that_would_pass_and_logs_epsilon():
    model = budgeted()
    callback = keras_dp.callbacks.PrivacyBudget(BUDGET.epsilon, BUDGET.delta)
    history = train(model, 5, epochs=FITTING, callbacks=[callback]).history
    assert model.ledger.updates == FITTING
    assert history["epsilon"] == sorted(history["epsilon"])
    assert history["epsilon"][-1] == pytest.approx(model.privacy_spent().epsilon)


def test_noise_is_calibrated_so_that_the_planned_updates_just_fit():
    model = budgeted(noise_multiplier=None)
    train(model, 5, epochs=4)
    spent = model.privacy_spent()
    assert (spent.updates, spent.delta) == (20, BUDGET.delta)
    assert 0.99 * BUDGET.epsilon < spent.epsilon <= BUDGET.epsilon
    with refused(model, "allows no further update"):
        train(model, 1)


def test_no_noise_fits_no_budget():
    model = budgeted(noise_multiplier=0.0)
    with refused(model, "no further update"):
        train(model, 1)
