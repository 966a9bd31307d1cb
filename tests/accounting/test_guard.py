"""The guard admits exactly what fits, at the cost of an integer."""

import pytest

from keras_dp.accounting import BudgetGuard, Ledger, guard, spent, updates_within
from keras_dp.errors import PrivacyBudgetExceeded
from keras_dp.plan import Budget
from tests.accounting.published import plan

PLAN = plan(noise_multiplier=2.0, batch_size=20, dataset_size=100)
BUDGET = Budget(epsilon=2.0, delta=1e-3)


def test_it_admits_as_many_updates_as_fit_and_not_one_more():
    ledger = Ledger()
    keeper = BudgetGuard(ledger, BUDGET)
    fit = updates_within(BUDGET, PLAN, 1000)
    for _ in range(fit):
        keeper.admit(PLAN)
    assert spent(ledger.releases, 1e-3) <= 2.0
    with pytest.raises(PrivacyBudgetExceeded, match=rf"epsilon 2 at delta 0.001.*{fit} updates"):
        keeper.admit(PLAN)
    assert ledger.updates == fit


def test_no_accountant_is_asked_while_the_allowance_lasts(monkeypatch):
    keeper = BudgetGuard(Ledger(), BUDGET)
    assert keeper.allowance(PLAN, at_most=5) == 5

    def refuse(*_):
        raise AssertionError("asked")

    monkeypatch.setattr(guard, "updates_within", refuse)
    for _ in range(5):
        keeper.admit(PLAN)
    with pytest.raises(AssertionError, match="asked"):
        keeper.admit(PLAN)


def test_another_plan_or_a_moved_ledger_makes_it_ask_again():
    ledger = Ledger()
    keeper = BudgetGuard(ledger, BUDGET)
    fit = keeper.allowance(PLAN)
    assert keeper.remaining == fit
    for _ in range(fit - 1):
        ledger.record(PLAN)  # by somebody else
    assert keeper.remaining == 0
    keeper.admit(PLAN)
    with pytest.raises(PrivacyBudgetExceeded, match="next update would pass"):
        keeper.admit(PLAN)
    with pytest.raises(PrivacyBudgetExceeded, match="noise multiplier 1"):
        keeper.admit(plan(noise_multiplier=1.0, batch_size=20, dataset_size=100))


def test_without_a_budget_everything_is_admitted_and_recorded():
    ledger = Ledger()
    keeper = BudgetGuard(ledger, None)
    assert keeper.allowance(PLAN, at_most=7) == 7
    assert keeper.remaining is None
    assert keeper.budget is None
    assert keeper.ledger is ledger
    for _ in range(10):
        keeper.admit(PLAN)
    assert ledger.updates == 10
