"""A search in a ledger, in its file and in the statement."""

import json
import math

import pytest

from keras_dp import accounting
from keras_dp.accounting import BestOf, Ledger, LedgerFile, Release, build_statement, privacy_spent
from keras_dp.plan import Budget
from tests.accounting.published import plan

PLAN = plan(batch_size=2048, dataset_size=60_000, noise_multiplier=2.5298)
SEARCH = Release(PLAN, 580, "search", BestOf(10))


def ledger_of(*releases):
    ledger = Ledger()
    for release in releases:
        ledger.add(release)
    return ledger


def words(statement):
    return " ".join(str(statement).split())


def test_a_search_is_counted_once_however_often_it_is_added_or_merged():
    ledger, twin = ledger_of(SEARCH, SEARCH), ledger_of(SEARCH)
    ledger.merge(twin.copy())
    ledger.merge(ledger.copy())
    assert ledger.releases == (SEARCH,)
    assert ledger.updates == 580
    alone = accounting.epsilon(
        noise_multiplier=2.5298,
        batch_size=2048,
        dataset_size=60_000,
        updates=580,
        delta=1e-5,
        best_of=BestOf(10),
    )
    assert accounting.spent(ledger.releases, 1e-5) == pytest.approx(alone, rel=1e-12)


def test_two_searches_are_counted_twice():
    other = Release(PLAN, 580, "other", BestOf(10))
    one, two = (accounting.spent(ledger_of(*s).releases, 1e-5) for s in ([SEARCH], [SEARCH, other]))
    assert one < two < 2 * one


def test_updates_after_a_search_are_counted_on_top_with_every_accountant():
    ledger = ledger_of(SEARCH)
    ledger.record(PLAN)
    assert [r.updates for r in ledger.releases] == [580, 1]
    for name in accounting.ACCOUNTANTS:
        assert accounting.spent(ledger.releases, 1e-5, name) > accounting.spent(
            [SEARCH], 1e-5, name
        )


@pytest.mark.parametrize("shape", [0.0, 1.0, math.inf])
def test_a_search_travels_as_json(shape):
    search = Release(PLAN, 580, "search", BestOf(10, shape, seeded=True))
    ledger = ledger_of(search)
    again = Ledger.from_json(ledger.to_json())
    assert again.releases == (search,)
    assert json.loads(json.dumps(ledger.get_config()))["version"] == 2
    assert Ledger().get_config()["version"] == 1


@pytest.mark.parametrize("other", [BestOf(9), BestOf(10, 0.0), None])
def test_a_search_whose_number_of_runs_was_altered_is_refused(other):
    ledger = ledger_of(SEARCH)
    altered = Release(PLAN, 600, "search", other)
    for change in (lambda: ledger.add(altered), lambda: ledger.merge(ledger_of(altered))):
        with pytest.raises(ValueError, match="disagree on the plan of segment 'search'"):
            change()
    assert ledger.releases == (SEARCH,)


def test_what_is_no_search_is_refused():
    with pytest.raises(ValueError, match="`best_of` must be a BestOf or None"):
        Release(PLAN, 580, "search", 10)
    with pytest.raises(ValueError, match="sampling"):
        Ledger().add(Release(plan(sampling="magic"), 1, "search", BestOf(10)))
    config = ledger_of(SEARCH).get_config()
    config["releases"][0]["best_of"]["mean_runs"] = 0.1
    with pytest.raises(ValueError, match="`mean_runs` must be"):
        Ledger.from_config(config)


def test_a_ledger_on_disk_holds_a_search_between_updates(tmp_path):
    file = LedgerFile(tmp_path / "ledger")
    file.ledger.record(PLAN)
    file.ledger.add(SEARCH)
    file.ledger.record(PLAN)
    file.ledger.add(SEARCH)
    expected = file.ledger.releases
    content = (tmp_path / "ledger").read_bytes()
    assert content.count(b"search") == 2  # one line, with its name and its id
    (tmp_path / "copy").write_bytes(content)
    found = LedgerFile(tmp_path / "copy").ledger.releases
    assert {r.id: r for r in found} == {r.id: r for r in expected}
    assert sorted(r.updates for r in found) == [2, 580]


def test_the_statement_says_what_the_search_cost_and_what_must_stay_secret():
    statement = build_statement(ledger_of(SEARCH), 1e-5, budget=Budget(3.0, 1e-5))
    text = words(statement)
    for part in (
        "The search behind this model is (epsilon, delta)-differentially private with epsilon = "
        "3.00 (rounded up)",
        "the best of a random number of runs and nothing of the others (geometric distribution, "
        "10 runs expected)",
        "each made at most 580 updates, Poisson sampling: each of 60000 examples",
        "Noise multiplier 2.5298, of the clip norm of the run",
        "Accountant: rdp",
        "(rdp_classic)",
        "How many runs the search made, how long it took",
        "in any other way than by the search that is counted above",
        "and so were the number of runs and their settings: no seed was given",
    ):
        assert part in text
    assert "Choosing hyper-parameters by results on the same data." not in text
    assert "(pld)." not in text
    assert statement.spent.accountant == "rdp"
    assert dict(statement.comparison).keys() == {"rdp_classic"}
    assert statement.spent.epsilon == accounting.spent([SEARCH], 1e-5, "rdp")
    data = json.loads(json.dumps(statement.to_dict()))
    assert data["searches"][0]["most_updates_in_a_run"] == 580
    assert data["searches"][0]["distribution"] == "geometric"
    assert data["releases"] == []


def test_the_statement_tells_a_search_from_what_came_after_it():
    ledger = ledger_of(SEARCH, Release(PLAN, 580, "other", BestOf(2, math.inf, seeded=True)))
    assert "The 2 searches behind this model are" in words(build_statement(ledger, 1e-5))
    for _ in range(3):
        ledger.record(plan(noise_multiplier=4.0))
    statement = build_statement(ledger, 1e-5)
    text = words(statement)
    assert "The 2 searches behind this model, together with its 3 other updates, are" in text
    assert "- 3 updates, Poisson sampling" in str(statement)
    assert "Poisson distribution, 2 runs expected" in text
    assert statement.seeded
    assert "WARNING: a search was seeded" in text


def test_without_a_search_the_accountant_is_the_one_that_was_asked():
    ledger = Ledger()
    ledger.record(PLAN)
    assert privacy_spent(ledger, 1e-5).accountant == "pld"
    with pytest.raises(ValueError, match="`accountant` must be one of"):
        privacy_spent(ledger, 1e-5, "magic")
