"""Lower bounds recover a known epsilon, and are above it no more often than they may."""

import jax_privacy.auditing as outside
import numpy as np
import pytest
from scipy.stats import binom

from keras_dp import auditing
from keras_dp.auditing.bounds import METHODS, independent_p_value, two_clusters

DELTA = 1e-5


def scores(mu, count, seed):
    """One score for each canary: N(0, 1) when it is out, N(mu, 1) when it is in."""
    rng = np.random.default_rng(seed)
    included = rng.random(count) < 0.5
    return rng.normal(size=count) + mu * included, included


@pytest.mark.parametrize(
    ("mu", "count"), [(0.5, 8000), (1.0, 2000), (2.0, 2000), (4.0, 2000), (1.0, 8000)]
)
def test_the_default_bound_recovers_four_fifths_of_epsilon(mu, count):
    """2000 / mu^2 canaries, and 2000 at least. A bound computed for 2/3 of mu, or 3/2, fails."""
    true = auditing.gaussian_epsilon(mu, DELTA)
    bounds = [
        auditing.lower_bound(*scores(mu, count, seed), delta=DELTA).epsilon for seed in range(20)
    ]
    assert 0.8 * true < np.mean(bounds) < true
    assert auditing.gaussian_epsilon(2 / 3 * mu, DELTA) < 0.8 * true


@pytest.mark.parametrize(
    ("method", "seeds"), [("independent", 400), ("one_run", 100), ("f_dp", 25)]
)
@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_no_more_bounds_than_allowed_are_above_the_true_epsilon(mu, method, seeds):
    """At 95 % confidence; by chance it fails once in a thousand times for a bound that is exact."""
    true = auditing.gaussian_epsilon(mu, DELTA)
    above = sum(
        auditing.lower_bound(*scores(mu, 400, seed), delta=DELTA, method=method).epsilon > true
        for seed in range(seeds)
    )
    assert above <= binom.ppf(0.999, seeds, 0.05)


def test_the_default_bound_uses_its_error_probability():
    """At 60 % confidence a bound that is nearly exact is above the truth nearly as often."""
    true = auditing.gaussian_epsilon(1.0, DELTA)
    above = sum(
        auditing.lower_bound(*scores(1.0, 600, seed), delta=DELTA, confidence=0.6).epsilon > true
        for seed in range(300)
    )
    low, high = binom.ppf([0.001, 0.999], 300, 0.4)
    assert low - 0.1 * 300 < above <= high


@pytest.mark.parametrize("fraction", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("mu", [0.7, 2.0])
def test_bounds_of_one_run_agree_with_another_implementation(mu, fraction):
    guesses = auditing.guess(*scores(mu, 1000, 3), fraction)
    theirs = (guesses.canaries, guesses.guesses, guesses.correct, 0.05, DELTA)
    for method, function in (
        ("one_run", outside._epsilon_one_run),
        ("f_dp", outside._epsilon_one_run_fdp),
    ):
        mine = auditing.lower_bound(
            *scores(mu, 1000, 3), delta=DELTA, method=method, fractions=(fraction,)
        )
        exact = function(1e-3, *theirs)
        assert 0.993 * exact < mine.epsilon < 1.0005 * exact  # strengths are rounded down
        assert mine.guesses == guesses


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
def test_the_p_value_of_one_run_is_its_formula_term_by_term(delta):
    correct, guesses, canaries, epsilon = 37, 50, 200, 0.7
    heads = np.exp(epsilon) / (1 + np.exp(epsilon))
    tail = binom.sf(correct - 1, guesses, heads)
    worst = max(
        (binom.sf(correct - i - 1, guesses, heads) - tail) / i for i in range(1, correct + 1)
    )
    expected = tail + 2 * canaries * delta * worst
    found = auditing.one_run_p_value(auditing.Guesses(correct, guesses, canaries), epsilon, delta)
    assert found == pytest.approx(min(1.0, expected), rel=1e-9)


def test_randomised_response_attains_the_bound_of_one_run():
    """Each coin is told truly with e^e / (1 + e^e): the p-value is exact for this mechanism."""
    rng, epsilon, count = np.random.default_rng(1), 1.0, 3000
    included = rng.random(count) < 0.5
    told = included ^ (rng.random(count) > np.exp(epsilon) / (1 + np.exp(epsilon)))
    bound = auditing.lower_bound(
        told, included, delta=1e-12, method="one_run", fractions=(1.0,)
    ).epsilon
    assert 0.8 * epsilon < bound < epsilon


def test_leaks_that_come_together_need_the_bound_that_allows_for_them():
    """A mechanism that reveals all canaries with probability 0.1 is (0, 0.1)-private.

    The bound that assumes nothing never says otherwise. The default assumes that canaries have
    noise of their own, and must not be used for such a mechanism.
    """
    rng = np.random.default_rng(0)
    above = {"one_run": 0, "independent": 0}
    for seed in range(300):
        values, included = scores(0.0, 100, seed)
        if rng.random() < 0.1:
            values = included.astype(float)
        for method in above:
            bound = auditing.lower_bound(values, included, delta=0.1, method=method)
            above[method] += bound.epsilon > 0.3
    assert above["one_run"] == 0
    assert above["independent"] > 0.06 * 300


@pytest.mark.parametrize("method", METHODS)
def test_perfect_guesses_give_a_finite_bound_and_useless_ones_none(method):
    included = np.arange(400) % 2 == 0
    perfect = auditing.lower_bound(included, included, delta=DELTA, method=method)
    useless = auditing.lower_bound(~included, included, delta=DELTA, method=method)
    assert 2 < perfect.epsilon < 40
    assert useless.epsilon == 0


def test_the_bound_grows_with_what_is_right_and_falls_with_confidence():
    values, included = scores(1.5, 1000, 0)
    bounds = [
        auditing.lower_bound(values, included, delta=DELTA, confidence=confidence).epsilon
        for confidence in (0.5, 0.9, 0.95, 0.999)
    ]
    assert bounds == sorted(bounds, reverse=True)
    p_values = [
        independent_p_value(auditing.Guesses(correct, 100, 100), auditing.Gaussian(1.0))
        for correct in range(101)
    ]
    assert p_values == sorted(p_values, reverse=True)
    assert p_values[0] == 1


@pytest.mark.filterwarnings("error")
def test_very_large_epsilons_overflow_nowhere():
    guesses = auditing.Guesses(900, 1000, 1000)
    assert auditing.one_run_p_value(guesses, 800.0, DELTA) == 1
    assert independent_p_value(guesses, auditing.Gaussian(60.0)) == 1
    assert auditing.gaussian_epsilon(60.0, DELTA) < np.inf


def test_two_clusters_are_split_between_them():
    values = np.array([0.0, 5.1, 0.2, 5.0, 0.1])
    assert two_clusters(values) == pytest.approx(2.6)


def test_as_many_canaries_as_asked_for_are_guessed_about():
    values, included = np.arange(10.0), np.arange(10) >= 5
    assert auditing.guess(values, included, 0.4) == auditing.Guesses(4, 4, 10)
    assert auditing.guess(values, ~included, 0.4) == auditing.Guesses(0, 4, 10)
    assert auditing.guess(values, included) == auditing.Guesses(10, 10, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.0, np.nan, 1.0]}, "finite.*1 NaN or infinite ones among 3"),
        ({"scores": [0.0, 1.0]}, r"one entry for each.*\(2,\) and \(3,\)"),
        ({"included": [0, 1, 2]}, "true or false"),
        ({"delta": 0.0}, "delta.*between 0 and 1"),
        ({"confidence": 1.0}, "confidence.*between 0 and 1"),
        ({"method": "magic"}, "method.*'f_dp', 'independent', 'one_run'.*'magic'"),
        ({"fractions": (0.0,)}, r"fractions.*\(0, 1\].*0.0"),
        ({"fractions": (0.7,)}, "a guess about every canary.*2 guesses about 3"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    arguments = {"scores": [0.0, 1.0, 2.0], "included": [0, 1, 1], "delta": DELTA, **changes}
    with pytest.raises(ValueError, match=message):
        auditing.lower_bound(arguments.pop("scores"), arguments.pop("included"), **arguments)


def test_counts_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"correct <= guesses <= canaries.*correct=5, guesses=4"):
        auditing.Guesses(5, 4, 10)
