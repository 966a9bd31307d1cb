"""The statement says what was promised, and what was not."""

import json

import pytest

from keras_dp import accounting
from keras_dp.accounting import Ledger, build_statement, privacy_spent
from keras_dp.accounting.wording import rounded_up
from keras_dp.plan import Budget
from tests.accounting.published import plan


def ledger_of(*entries):
    ledger = Ledger()
    for entry, updates in entries:
        for _ in range(updates):
            ledger.record(entry)
    return ledger


def words(statement):
    return " ".join(str(statement).split())


PUBLISHED = plan(batch_size=2048, dataset_size=60_000, clip_norm=0.1, noise_multiplier=2.15)


def test_the_published_training_is_stated_with_its_published_figures():
    statement = build_statement(
        ledger_of((PUBLISHED, 1160)), 1e-5, budget=Budget(epsilon=3.0, delta=1e-5)
    )
    text = words(statement)
    for part in (
        "epsilon = 2.38 (rounded up) and delta = 1e-05",
        "3.00 (rdp_classic)",
        "The budget is epsilon = 3 at delta = 1e-05",
        "1160 updates",
        "each of 60000 examples",
        "probability 0.0341333",
        "Clip norm 0.1, noise multiplier 2.15",
        "standard deviation 0.215",
        "one row of the training data",
        "add or remove one",
        "no seed was given",
        "Metrics and losses shown during training are exact functions",
    ):
        assert part in text
    assert max(len(line) for line in str(statement).splitlines()) <= 88


def test_machines_read_the_same_as_json():
    ledger = ledger_of((PUBLISHED, 10))
    data = json.loads(json.dumps(build_statement(ledger, 1e-5).to_dict()))
    spent = privacy_spent(ledger, 1e-5)
    assert data["epsilon"] == spent.epsilon
    assert data["updates"] == 10
    assert data["neighbouring_relation"] == "add_or_remove_one"
    assert data["releases"][0]["noise_stddev"] == pytest.approx(0.215)
    assert set(data["comparison"]) == {"rdp", "rdp_classic"}
    assert data["budget"] is None
    assert data["seeded"] is False


def test_without_noise_it_says_that_there_is_no_privacy():
    statement = build_statement(ledger_of((plan(noise_multiplier=0.0), 1)), 1e-5)
    assert "There is NO privacy" in words(statement)
    assert "no noise was added" in words(statement)
    assert statement.to_dict()["epsilon"] == "inf"


def test_a_seed_is_warned_of():
    statement = build_statement(ledger_of((plan(seeded=True), 1)), 1e-5)
    assert "Anyone who knows the seed can draw the same noise" in words(statement)
    assert statement.seeded


def test_before_any_update_nothing_was_released():
    statement = build_statement(Ledger(), 1e-5)
    assert "No update was made yet" in words(statement)
    spent = privacy_spent(Ledger(), 1e-5)
    assert (spent.epsilon, spent.updates, spent.sampling) == (0.0, 0, "none")


def test_mixed_ledgers_are_composed_and_listed():
    given = plan(sampling="given", batch_size=10, noise_multiplier=5.0)
    ledger = ledger_of((PUBLISHED, 3), (given, 2), (PUBLISHED, 4))
    statement = build_statement(ledger, 1e-5)
    assert statement.spent.sampling == "poisson + given"
    assert [updates for _, updates in statement.releases] == [7, 2]
    assert statement.spent.epsilon == accounting.spent(ledger.releases, 1e-5)
    assert "the caller chose them" in words(statement)


@pytest.mark.parametrize(
    ("value", "shown"), [(2.3761, "2.38"), (2.38, "2.38"), (0.0, "0.00"), (1e-9, "0.01")]
)
def test_epsilon_is_never_shown_smaller_than_it_is(value, shown):
    assert rounded_up(value) == shown
    assert rounded_up(float("inf")) == "infinite"
