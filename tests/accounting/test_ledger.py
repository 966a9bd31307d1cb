"""The count follows the weights: never lowered, never doubled, refused when malformed."""

import copy
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dp.accounting import Ledger, Release
from tests.accounting.published import plan

ONE, OTHER = plan(noise_multiplier=1.0), plan(noise_multiplier=2.0)


def recorded(*plans):
    ledger = Ledger()
    for entry in plans:
        ledger.record(entry)
    return ledger


def counts(ledger):
    return {release.id: release.updates for release in ledger.releases}


def test_equal_updates_share_a_segment_and_a_change_opens_a_new_one():
    ledger = recorded(ONE, ONE, OTHER, ONE)
    assert ledger.updates == 4
    assert [(r.plan, r.updates) for r in ledger.releases] == [(ONE, 2), (OTHER, 1), (ONE, 1)]
    assert len(counts(ledger)) == 3


def test_a_copy_records_under_names_of_its_own():
    ledger = recorded(ONE)
    for twin in (ledger.copy(), copy.deepcopy(ledger), pickle.loads(pickle.dumps(ledger))):
        twin.record(ONE)
        ledger.record(ONE)
        assert twin.updates == 2
        assert set(counts(twin)) != set(counts(ledger))


@settings(max_examples=50, deadline=None)
@given(shared=st.integers(0, 5), left=st.integers(0, 5), right=st.integers(0, 5))
def test_merging_ledgers_that_parted_counts_every_update_once(shared, left, right):
    first = recorded(*[ONE] * shared)
    second = first.copy()
    for ledger, more in ((first, left), (second, right)):
        for _ in range(more):
            ledger.record(ONE)
    whole, reverse = first.copy(), second.copy()
    # The open segment of `first` may have grown after the copy: the larger count is kept.
    whole.merge(second)
    reverse.merge(first)
    assert whole.updates == reverse.updates == shared + left + right
    assert counts(whole) == counts(reverse)
    again = counts(whole)
    whole.merge(second)
    whole.merge(whole.copy())
    assert counts(whole) == again


def test_a_merge_never_lowers_a_count():
    ledger = recorded(ONE)
    early = ledger.copy()
    ledger.record(ONE)
    ledger.merge(early)
    assert ledger.updates == 2
    early.merge(ledger)
    assert early.updates == 2


def test_a_merge_of_contradicting_segments_changes_nothing():
    ledger = recorded(ONE)
    config = ledger.get_config()
    config["releases"][0]["plan"]["noise_multiplier"] = 9.0
    with pytest.raises(ValueError, match="disagree on the plan of segment"):
        ledger.merge(Ledger.from_config(config))
    assert ledger.updates == 1


def test_json_round_trips():
    ledger = recorded(ONE, OTHER)
    again = Ledger.from_json(ledger.to_json())
    assert again.releases == ledger.releases
    assert again.updates == 2
    assert repr(again) == "Ledger(updates=2, segments=2)"


def damaged(**changes):
    config = json.loads(recorded(ONE).to_json())
    config["releases"][0].update(changes)
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "must be a dictionary with a version"),
        ({}, "must be a dictionary with a version"),
        ({"version": 99, "releases": []}, "must have version 1 or 2. Received: 99"),
        ({"version": 1}, "`releases` must be a list"),
        (damaged(updates=-1), "updates.*at least 1.*-1"),
        (damaged(updates=1.5), "updates.*1.5"),
        (damaged(id=""), "id.*non-empty"),
        (damaged(plan={"sampling": "poisson"}), "must hold an id, a number of updates and a plan"),
        (
            {"version": 1, "releases": damaged()["releases"] * 2},
            "name each segment once.*twice",
        ),
    ],
)
def test_malformed_ledgers_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        Ledger.from_config(config)


def test_a_plan_that_cannot_be_accounted_for_is_not_recorded():
    ledger = Ledger()
    with pytest.raises(ValueError, match="sampling"):
        ledger.record(plan(sampling="magic"))
    assert ledger.updates == 0
    with pytest.raises(ValueError, match="must be a PrivacyPlan"):
        Release("poisson", 1, "a")


def test_notes_travel_with_the_ledger_each_once():
    ledger, other = Ledger(), Ledger()
    for text in ("one", "two", "one"):
        ledger.note(text)
    other.note("three")
    other.merge(Ledger.from_json(ledger.to_json()))
    other.merge(ledger)
    assert other.notes == ("three", "one", "two")
    with pytest.raises(ValueError, match=r"`notes` must be a list of strings. Received: \[1\]"):
        Ledger.from_config({"version": 1, "releases": [], "notes": [1]})
