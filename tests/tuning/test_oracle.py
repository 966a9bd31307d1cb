"""Runs are independent draws, their number has the stated law, and nothing tells it in advance."""

import itertools
import math

import keras_tuner
import numpy as np
import pytest
from keras_tuner.engine import trial as trials
from scipy import stats

from keras_dp.accounting import BestOf
from keras_dp.tuning.oracle import IndependentRuns
from tests.accounting.selection import law


class InMemory(IndependentRuns):
    """Writes nothing, to be quick."""

    def save(self):
        pass

    def _save_trial(self, trial):
        pass


def space():
    hp = keras_tuner.HyperParameters()
    hp.Choice("kind", ["a", "b", "c"])
    hp.Boolean("deep")
    with hp.conditional_scope("kind", ["a"]):
        hp.Float("rate", 0.01, 1.0, sampling="log")
    hp.Fixed("size", 7)
    return hp


def oracle_of(best_of, seed=None, hyperparameters=None):
    return InMemory("val_loss", best_of, hyperparameters or space(), seed)


def runs_of(oracle):
    """All values that a search draws, until it stops."""
    found = []
    while (trial := oracle.create_trial("tuner0")).status != trials.TrialStatus.STOPPED:
        found.append(dict(trial.hyperparameters.values))
        oracle.update_trial(trial.trial_id, {"val_loss": 1.0})
        trial.status = trials.TrialStatus.COMPLETED
        oracle.end_trial(trial)
    return found


@pytest.mark.parametrize("shape", [0.0, 1.0, math.inf])
def test_the_number_of_runs_has_its_law_and_no_other_mean(shape):
    """By a chi-squared test: fails by chance once in 10,000 times."""
    numbers = [len(runs_of(oracle_of(BestOf(2.5, shape), seed))) for seed in range(500)]

    def rejected(mean):
        expected = law(mean, shape)[:60]
        groups = np.searchsorted(np.cumsum(expected), [0.15, 0.4, 0.6, 0.8, 0.92])
        edges = np.unique(np.concatenate([[0], groups + 1, [60]]))
        found = [np.sum((numbers >= a) & (numbers < b)) for a, b in _pairs(edges)]
        wanted = np.array([np.sum(expected[a:b]) for a, b in _pairs(edges)])
        kept = wanted > 0
        counts, wanted = np.array(found)[kept], wanted[kept] / wanted[kept].sum()
        return stats.chisquare(counts, wanted * len(numbers)).pvalue < 1e-4

    numbers = np.array(numbers)
    assert not rejected(2.5)
    assert rejected(2.5 * 2 / 3)
    assert rejected(2.5 * 3 / 2)


def _pairs(edges):
    return list(itertools.pairwise(edges))


@pytest.fixture(scope="module")
def many():
    """One long search."""
    oracle = oracle_of(BestOf(600, math.inf), seed=0)
    found = runs_of(oracle)
    assert len(found) > 500
    return found[:500]


def test_values_are_drawn_anew_for_every_run_also_the_same_ones_again(many):
    """KerasTuner's random search leaves out what it tried. Fails by chance once in 2,000 times."""
    kinds = [run["kind"] for run in many]
    deep = [run["deep"] for run in many]
    assert stats.chisquare([kinds.count(k) for k in "abc"]).pvalue > 1e-4
    assert stats.chisquare([deep.count(False), deep.count(True)]).pvalue > 1e-4
    pairs = [kinds[i] + kinds[i + 1] for i in range(0, 500, 2)]
    counts = [pairs.count(a + b) for a in "abc" for b in "abc"]
    assert stats.chisquare(counts).pvalue > 1e-4


def test_conditional_values_are_there_when_their_condition_holds(many):
    assert all(("rate" in run) == (run["kind"] == "a") for run in many)
    assert {run["size"] for run in many} == {7}
    rates = np.array([run["rate"] for run in many if "rate" in run])
    shares = np.log(rates / 0.01) / math.log(100)
    assert stats.kstest(shares, "uniform").pvalue > 1e-4
    assert stats.kstest(shares**2, "uniform").pvalue < 1e-4


def test_a_seed_repeats_a_search_and_without_one_no_two_are_alike():
    def draw(seed):
        oracle = oracle_of(BestOf(1), seed)
        return [oracle.number("number of runs", run, 53) for run in range(5)], runs_of(oracle)

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert draw(None) != draw(None)


def test_a_coin_is_a_number_below_one():
    oracle = oracle_of(BestOf(5), seed=0)
    coins = [oracle.number("number of runs", run, 53) / 2**53 for run in range(2000)]
    assert 0 <= min(coins) <= max(coins) < 1
    assert stats.kstest(coins, "uniform").pvalue > 1e-4


def test_nothing_that_is_stored_tells_how_many_runs_will_follow():
    """The same state whatever the number turns out to be: it is decided run by run."""
    states = []
    for shape in (1.0, math.inf):
        for mean in (1, 50):
            oracle = oracle_of(BestOf(mean, shape), seed=2)
            states.append({k: v for k, v in oracle.get_state().items() if "seed" not in k})
    assert all(state == states[0] for state in states)


def test_several_metrics_may_be_compared_by():
    goals = [keras_tuner.Objective("val_a", "min"), keras_tuner.Objective("val_b", "max")]
    oracle = InMemory(goals, BestOf(2), space(), None)
    assert oracle.names() == ["val_a", "val_b"]
    assert oracle.search is None
