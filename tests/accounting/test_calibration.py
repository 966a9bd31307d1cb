"""The inverse questions never answer on the wrong side."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dp import accounting
from keras_dp.accounting import Release
from keras_dp.errors import PrivacyBudgetExceeded
from keras_dp.plan import Budget
from tests.accounting.published import plan

FEW = settings(max_examples=4, deadline=None, derandomize=True)
QUICK = st.sampled_from(["rdp", "rdp_classic"])
TRAINING = st.fixed_dictionaries(
    {"batch_size": st.integers(1, 500), "dataset_size": st.integers(500, 1000)}
)


def spent(budget, *parts):
    releases = [Release(part, count, "x") for part, count in parts]
    return accounting.spent(releases, budget.delta, budget.accountant)


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
@pytest.mark.parametrize("epsilon", [0.3, 3.0, 25.0])
def test_noise_keeps_epsilon_and_a_little_less_does_not(epsilon, accountant):
    settings = {
        "delta": 1e-5,
        "batch_size": 50,
        "dataset_size": 1000,
        "updates": 100,
        "accountant": accountant,
    }
    noise = accounting.noise_multiplier(epsilon=epsilon, **settings)
    assert accounting.epsilon(noise_multiplier=noise, **settings) <= epsilon
    assert accounting.epsilon(noise_multiplier=noise * (1 - 2e-4), **settings) > epsilon
    assert len(f"{noise:.12g}".replace(".", "").lstrip("0")) <= 5


@FEW
@given(
    training=TRAINING, epsilon=st.floats(0.5, 50), updates=st.integers(1, 5000), accountant=QUICK
)
def test_noise_there_and_back_never_overshoots(training, epsilon, updates, accountant):
    settings = {**training, "delta": 1e-5, "updates": updates, "accountant": accountant}
    noise = accounting.noise_multiplier(epsilon=epsilon, **settings)
    assert accounting.epsilon(noise_multiplier=noise, **settings) <= epsilon
    less = accounting.epsilon(noise_multiplier=noise * (1 - 2e-4), **settings)
    assert less > epsilon or noise == 1e-3


@FEW
@given(training=TRAINING, epsilon=st.floats(0.5, 20), noise=st.floats(0.7, 10), accountant=QUICK)
def test_the_number_of_updates_fits_and_one_more_does_not(training, epsilon, noise, accountant):
    settings = {**training, "delta": 1e-5, "noise_multiplier": noise, "accountant": accountant}
    most = accounting.updates(epsilon=epsilon, **settings)
    if most:
        assert accounting.epsilon(updates=most, **settings) <= epsilon
    assert accounting.epsilon(updates=most + 1, **settings) > epsilon


def test_the_number_of_updates_by_pld_fits_and_one_more_does_not():
    settings = {"delta": 1e-5, "noise_multiplier": 1.1, "batch_size": 256, "dataset_size": 60_000}
    most = accounting.updates(epsilon=1.5, **settings)
    assert accounting.epsilon(updates=most, **settings) <= 1.5
    assert accounting.epsilon(updates=most + 1, **settings) > 1.5


def test_calibrated_noise_gives_back_the_number_of_updates():
    settings = {"epsilon": 3.0, "delta": 1e-5, "batch_size": 2048, "dataset_size": 60_000}
    noise = accounting.noise_multiplier(updates=1160, **settings)
    assert accounting.updates(noise_multiplier=noise, **settings) >= 1160


def test_no_update_fits_a_budget_below_the_cost_of_one():
    settings = {"delta": 1e-5, "batch_size": 10, "dataset_size": 10, "sampling": "full_batch"}
    assert accounting.updates(epsilon=0.1, noise_multiplier=1.0, **settings) == 0
    assert accounting.updates(epsilon=100.0, noise_multiplier=0.0, **settings) == 0


def test_updates_that_cost_next_to_nothing_are_capped():
    found = accounting.updates(
        epsilon=10.0, delta=1e-3, noise_multiplier=1e6, batch_size=1, dataset_size=10**9
    )
    assert found == 2**40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "`epsilon` must be a finite number above 0"),
        ({"epsilon": math.inf}, "`epsilon` must be a finite number"),
        ({"delta": 2.0}, "`delta` must lie strictly between 0 and 1"),
        ({"updates": 0}, "`updates` must be a whole number of at least 1"),
        ({"batch_size": 5000}, "`batch_size` must be at most `dataset_size`"),
        ({"sampling": "fixed"}, "`sampling` must be one of"),
        ({"accountant": "moments"}, "`accountant` must be one of"),
        ({"epsilon": 1e-4, "accountant": "rdp_classic"}, "noise multiplier up to 1e.06"),
    ],
)
def test_bad_questions_about_noise_are_refused(changes, message):
    usual = {"epsilon": 1.0, "delta": 1e-5, "batch_size": 5, "dataset_size": 100, "updates": 10}
    with pytest.raises(ValueError, match=message):
        accounting.noise_multiplier(**{**usual, **changes})


def test_bad_questions_about_updates_are_refused():
    usual = {"delta": 1e-5, "batch_size": 5, "dataset_size": 100}
    with pytest.raises(ValueError, match="`noise_multiplier` must be a finite number"):
        accounting.updates(epsilon=1.0, noise_multiplier=-1.0, **usual)
    with pytest.raises(ValueError, match="`epsilon` must be a finite number above 0"):
        accounting.updates(epsilon=-1.0, noise_multiplier=1.0, **usual)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("used", [0.5, 0.99])
def test_calibration_leaves_room_for_what_was_spent_before(used, accountant):
    budget = Budget(epsilon=2.0, delta=1e-5, accountant=accountant)
    before = accounting.calibrate(dataclasses.replace(budget, epsilon=2.0 * used), plan(), 100)
    prior = (Release(before, 100, "before"),)
    after = accounting.calibrate(budget, plan(noise_multiplier=0.0), 50, prior)
    assert spent(budget, (before, 100), (after, 50)) <= 2.0
    less = dataclasses.replace(after, noise_multiplier=after.noise_multiplier * (1 - 2e-4))
    assert spent(budget, (before, 100), (less, 50)) > 2.0
    assert dataclasses.replace(after, noise_multiplier=0.0) == plan(noise_multiplier=0.0)


def test_a_budget_that_was_spent_before_cannot_be_calibrated_for():
    budget, prior = Budget(epsilon=1.0, delta=1e-5), (Release(plan(), 500, "before"),)
    with pytest.raises(PrivacyBudgetExceeded, match=r"spent already.*500 updates.*fresh"):
        accounting.calibrate(budget, plan(), 10, prior)


def test_a_budget_that_no_noise_can_meet_is_a_bad_argument():
    message = "`epsilon` must be large enough.*Received: epsilon 0.001.*accountant='pld'"
    with pytest.raises(ValueError, match=message):
        accounting.calibrate(Budget(1e-3, 1e-5, "rdp_classic"), plan(), 10)


@pytest.mark.parametrize("prior", [(), (Release(plan(noise_multiplier=3.0), 40, "before"),)])
def test_updates_within_is_the_last_number_that_fits(prior):
    budget = Budget(epsilon=1.5, delta=1e-5)
    parts = [(release.plan, release.updates) for release in prior]
    fit = accounting.updates_within(budget, plan(), 1024, prior)
    assert 0 < fit < 1024
    assert spent(budget, *parts, (plan(), fit)) <= 1.5
    assert spent(budget, *parts, (plan(), fit + 1)) > 1.5


def test_updates_within_asks_the_accountant_once_when_all_fit(monkeypatch):
    budget, asked = Budget(epsilon=5.0, delta=1e-5), []
    measured = accounting.accountant.Measure.epsilon

    def epsilon(self, releases, **settings):
        asked.append(releases)
        return measured(self, releases, **settings)

    monkeypatch.setattr(accounting.accountant.Measure, "epsilon", epsilon)
    assert accounting.updates_within(budget, plan(noise_multiplier=2.0), 10) == 10
    assert len(asked) == 1


def test_updates_within_a_spent_budget_is_none():
    budget, prior = Budget(epsilon=1.0, delta=1e-5), (Release(plan(), 500, "before"),)
    assert accounting.updates_within(budget, plan(noise_multiplier=100.0), 10, prior) == 0
    assert accounting.updates_within(budget, plan(noise_multiplier=0.0), 10) == 0
    with pytest.raises(ValueError, match="`at_most` must be a whole number"):
        accounting.updates_within(budget, plan(), 0)
