"""The statement says what was promised, and what was not."""

import dataclasses
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
    seeded = dataclasses.replace(PUBLISHED, seeded=True)
    statement = build_statement(ledger_of((seeded, 10)), 1e-5)
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


def test_figures_for_groups_attackers_and_other_deltas_are_stated():
    ledger = ledger_of((PUBLISHED, 1160))
    statement = build_statement(ledger, 1e-5, group_sizes=(3,))
    text = words(statement)
    ((size, group),) = statement.groups
    assert size == 3
    assert f"epsilon for a person with 3 rows: {rounded_up(group)}" in text
    assert group > 3 * statement.spent.epsilon
    assert "epsilon at delta = 1e-07: 2.98" in text
    assert "while wrongly accusing 1 % of all others: 4.1 %" in text
    assert "with probability 0.001 without the model: 0.0061" in text
    data = statement.to_dict()
    assert data["groups"] == [{"examples": 3, "epsilon": group}]
    deltas = [row["delta"] for row in data["other_deltas"]]
    assert deltas == pytest.approx([1e-6, 1e-7])
    assert data["attacks"][1]["best_true_positive_rate"] == statement.attacks[1][1]


def test_shuffled_data_are_stated_with_their_own_neighbouring_relation():
    shuffled = plan(sampling="shuffle", updates_per_epoch=16)
    statement = build_statement(ledger_of((PUBLISHED, 2), (shuffled, 2)), 1e-5)
    assert statement.spent.neighbouring_relation == "replace_special"
    assert "replaced by an empty one" in words(statement)
    assert "with no gain from sampling" in words(statement)


def test_the_privacy_card_is_markdown_with_everything_in_it():
    ledger = ledger_of((PUBLISHED, 10))
    ledger.note("Something to be mentioned.")
    statement = build_statement(ledger, 1e-5)
    card = statement.to_markdown()
    assert card.startswith("# Privacy card\n")
    for part in ("## What is not covered", "- Something to be mentioned.", "| epsilon at delta ="):
        assert part in card
    machines = card.split("```json\n")[1].split("\n```")[0]
    assert json.loads(machines) == json.loads(json.dumps(statement.to_dict()))
