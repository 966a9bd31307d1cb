"""A run of a search costs at every Renyi order at most what the search is counted by."""

import numpy as np
import pytest

from keras_dp import PrivacyBudgetExceeded
from keras_dp.accounting import BestOf, Ledger, Release, RunGuard, rdp, spent
from keras_dp.accounting.composition import composition_of
from keras_dp.plan import Budget
from tests.accounting.published import plan

SEARCH = Release(plan(batch_size=100, noise_multiplier=2.0), 50, "s", BestOf(5))


def guard():
    ledger = Ledger()
    ledger.add(SEARCH)
    return RunGuard(SEARCH, None, ledger)


def within(*releases):
    """Whether runs of these updates have smaller divergences than the search's, at each order."""
    run, most = (
        rdp.curve(composition_of(each)).divergences
        for each in (releases, [Release(SEARCH.plan, SEARCH.updates, "most")])
    )
    return bool(np.all(run <= most))


def test_a_run_makes_the_updates_of_the_search_and_not_one_more():
    run = guard()
    assert run.allowance(SEARCH.plan, 50) == 50
    for _ in range(50):
        run.admit(SEARCH.plan)
    with pytest.raises(PrivacyBudgetExceeded, match=r"1 updates .* after 50 made before, of"):
        run.admit(SEARCH.plan)
    assert run.ledger.updates == 50


@pytest.mark.parametrize("changes", [{"clip_norm": 9.0}, {"clipping": "per_layer"}])
def test_runs_may_differ_in_what_costs_nothing(changes):
    other = plan(batch_size=100, noise_multiplier=2.0, **changes)
    assert guard().allowance(other, 50) == 50
    with pytest.raises(PrivacyBudgetExceeded, match=r"51 updates .* of which 50 fit"):
        guard().allowance(other, 51)


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": 3.0},
        {"batch_size": 40},
        {"batch_size": 150, "noise_multiplier": 4.0},
        {"dataset_size": 900},
        {"noise_multiplier": 1.9},
    ],
)
def test_other_runs_make_as_many_updates_as_stay_below_the_search_at_every_order(changes):
    other = plan(**{"batch_size": 100, "noise_multiplier": 2.0, **changes})
    fitting = 0
    while within(Release(other, fitting + 1, "other")):
        fitting += 1
    if fitting:
        assert guard().allowance(other, fitting) == fitting
    with pytest.raises(PrivacyBudgetExceeded, match=f"of which {fitting} fit"):
        guard().allowance(other, fitting + 1)


def test_what_a_run_has_made_before_counts():
    run, other = guard(), plan(batch_size=100, noise_multiplier=3.0)
    for _ in range(20):
        run.admit(other)
    run.ledger.close()
    with pytest.raises(PrivacyBudgetExceeded, match=r"50 updates .* after 20 made before"):
        run.allowance(SEARCH.plan, 50)
    assert run.allowance(SEARCH.plan, 30) == 30


@pytest.mark.parametrize("accountant", ["pld", "rdp_classic"])
def test_another_budget_is_held_against_the_search_as_a_whole(accountant):
    epsilon = spent([SEARCH], 1e-5, accountant)
    enough = Budget(epsilon, 1e-5, accountant), Budget(1.1 * epsilon, 1e-5, accountant)
    assert [guard().within(budget, SEARCH.plan, 50) for budget in enough] == [50, 50]
    assert guard().within(Budget(0.999 * epsilon, 1e-5, accountant), SEARCH.plan, 1) == 0


def test_the_message_names_both_sides_and_what_to_do():
    larger = plan(batch_size=200, noise_multiplier=2.0)
    with pytest.raises(PrivacyBudgetExceeded, match="Every run of a search must cost") as refusal:
        guard().allowance(larger, 5)
    for part in (
        "50 updates with noise multiplier 2, batch size 100 of 1000 examples, sampling 'poisson'",
        "batch size 200 of 1000 examples",
        "No update was made",
        "open the search with the largest batch and the most epochs of any",
    ):
        assert part in str(refusal.value)


def test_a_sampling_without_renyi_divergence_is_refused():
    other = plan(sampling="balls_in_bins", updates_per_epoch=10)
    with pytest.raises(ValueError, match="must know the sampling"):
        guard().allowance(other, 5)
