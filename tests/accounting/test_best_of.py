"""A search costs what Papernot and Steinke prove, and never less than it exactly does."""

import math

import numpy as np
import pytest
from dp_accounting.rdp import rdp_privacy_accountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from keras_dp import accounting
from keras_dp.accounting import BestOf, Release, rdp
from keras_dp.accounting.attacks import best_true_positive_rate
from keras_dp.accounting.best_of import _gamma
from keras_dp.accounting.composition import composition_of
from keras_dp.accounting.groups import group_epsilon
from tests.accounting.published import plan
from tests.accounting.selection import (
    LAWS,
    POISSON,
    best,
    delta,
    divergence,
    gamma,
    gaussian_outcomes,
    law,
    theorem,
    theorem_6,
)

FULL = {"sampling": "full_batch", "batch_size": 1000, "dataset_size": 1000}
ORDERS = np.array([1.2, 1.5, 2.0, 3.0, 4.5, 7.0, 12.0, 20.0, 40.0, 90.0])


def searched(mean, shape, noise, updates=1, **settings):
    return Release(plan(noise_multiplier=noise, **settings), updates, "s", BestOf(mean, shape))


def curve(release, orders=ORDERS):
    return rdp.curve(composition_of([release]), tuple(orders))


def chances(mean, shape, most=400):
    """The probabilities that `goes_on` gives to each number of runs, and to more."""
    best_of, left, found = BestOf(mean, shape), 1.0, []
    for made in range(most):
        low, high = 0.0, 1.0
        for _ in range(50):  # the edge between coins that go on and coins that stop
            middle = (low + high) / 2
            low, high = (middle, high) if best_of.goes_on(made, middle) else (low, middle)
        found.append(left * (1 - high))
        left *= high
    return np.array([*found, left])


@pytest.mark.parametrize(("mean", "shape"), [*LAWS, *POISSON])
def test_deciding_run_by_run_gives_the_number_of_runs_its_distribution(mean, shape):
    expected = law(mean, shape)
    np.testing.assert_allclose(chances(mean, shape)[:-1], expected[:400], atol=1e-10)
    assert np.sum(np.arange(len(expected)) * expected) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("shape", [0.0, 1.0, math.inf])
def test_numbers_drawn_with_coins_follow_the_law_and_no_other_mean(shape):
    """By the mean of 4000 numbers: fails by chance once in 10,000 times."""
    rng, best_of, drawn = np.random.default_rng(0), BestOf(6, shape), []
    for _ in range(4000):
        made = 0
        while best_of.goes_on(made, rng.random()):
            made += 1
        drawn.append(made)

    def rejected(mean):
        probabilities = law(mean, shape)
        k = np.arange(len(probabilities))
        deviation = math.sqrt(np.sum(probabilities * (k - mean) ** 2) / len(drawn))
        return abs(np.mean(drawn) - mean) > stats.norm.isf(0.5e-4) * deviation

    assert not rejected(6)
    assert rejected(4)
    assert rejected(9)


@pytest.mark.parametrize(("mean", "shape"), LAWS)
def test_the_accountant_never_counts_fewer_runs_than_are_drawn(mean, shape):
    counted = rdp_privacy_accountant._gamma_truncated_negative_binomial(shape, mean)
    assert counted <= _gamma(mean, shape)
    assert _gamma(mean, shape) == pytest.approx(gamma(mean, shape), rel=1e-6)


def test_one_expected_run_is_one_run():
    for shape in (0.0, 0.5, 1.0):
        one = BestOf(1, shape)
        assert one.goes_on(0, 0.999)
        assert not one.goes_on(1, 0.0)
        alone = accounting.spent([Release(plan(), 100, "a")], 1e-5, "rdp")
        found = accounting.spent([searched(1, shape, 1.0, 100)], 1e-5)
        assert alone <= found <= 1.06 * alone  # the least order that is tried is 1.1, not 1


@pytest.mark.parametrize(("mean", "shape"), LAWS)
@pytest.mark.parametrize(("noise", "updates"), [(1.0, 100), (4.0, 1000)])
def test_divergences_are_those_of_theorem_2(mean, shape, noise, updates):
    run = rdp.curve(composition_of([Release(plan(noise_multiplier=noise), updates, "a")]))
    found = curve(searched(mean, shape, noise, updates), run.orders)
    expected = theorem(run.orders, run.divergences, mean, shape)
    # A divergence grows with its order, so that of a higher order holds for a lower one too.
    expected = np.minimum.accumulate(expected[::-1])[::-1]
    np.testing.assert_allclose(found.divergences, expected, rtol=1e-6)


@pytest.mark.parametrize(("mean", "shape"), POISSON)
@pytest.mark.parametrize(("noise", "updates"), [(1.0, 100), (4.0, 1000)])
def test_divergences_of_a_poisson_number_are_those_of_theorem_6(mean, shape, noise, updates):
    run = rdp.curve(composition_of([Release(plan(noise_multiplier=noise), updates, "a")]))
    found = curve(searched(mean, shape, noise, updates), run.orders)
    compute = rdp_privacy_accountant.compute_delta
    epsilons = np.log1p(1 / (run.orders - 1))
    deltas = np.array([compute(run.orders, run.divergences, e)[0] for e in epsilons])
    expected = theorem_6(run.orders, run.divergences, deltas, mean)
    np.testing.assert_allclose(found.divergences, expected, rtol=1e-6)


@pytest.mark.parametrize(("mean", "shape"), LAWS)
@pytest.mark.parametrize("rho", [0.1, 0.02])
def test_runs_of_concentrated_privacy_cost_what_corollary_4_says(mean, shape, rho):
    """The base algorithm of the paper's figures is 0.1-zCDP: noise multiplier sqrt(5)."""
    halting = -math.log(gamma(mean, shape))
    special = math.sqrt(halting / rho), 1 + math.sqrt(math.log(mean) / rho)
    orders = np.sort([*special, *ORDERS])
    found = curve(searched(mean, shape, math.sqrt(0.5 / rho), **FULL), orders)
    used = np.maximum(orders, special[1])
    expected = (
        rho * (used - 1)
        + math.log(mean) / (used - 1)
        + 2 * (1 + shape) * math.sqrt(rho * halting)
        - shape * rho
    )
    np.testing.assert_allclose(found.divergences, expected, rtol=1e-6)


@pytest.mark.parametrize(("shape", "factor"), [(0.0, 2), (1.0, 3), (2.0, 4)])
def test_epsilon_grows_by_two_and_the_shape_in_the_limit_of_pure_privacy(shape, factor):
    """Corollary 3: geometric triples, logarithmic doubles, however many runs are expected."""
    for mean in (10, 100):
        outcomes = np.array([1, math.e]) / (1 + math.e)
        one, other = best(outcomes, law(mean, shape)), best(outcomes[::-1], law(mean, shape))
        losses = np.log(one[1:] / other[1:])
        assert np.max(np.abs(losses)) <= factor
        bound = theorem(np.array([1e7]), np.array([1.0]), mean, shape)[0]
        assert bound == pytest.approx(factor, rel=1e-5)


mechanisms = st.lists(st.floats(0.05, 1.0), min_size=2, max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    one=mechanisms,
    tilt=st.lists(st.floats(-1.0, 1.0), min_size=5, max_size=5),
    which=st.sampled_from([*LAWS, *POISSON]),
)
def test_no_discrete_mechanism_loses_more_than_the_theorems_say(one, tilt, which):
    """The best of K outcomes is computed from the definition, for every K."""
    first = np.array(one) / sum(one)
    second = first * np.exp(tilt[: len(one)])
    second /= second.sum()
    orders = np.array([1.5, 2.0, 4.0, 10.0, 40.0, 300.0])
    worst = [max(divergence(first, second, a), divergence(second, first, a)) for a in orders]
    if which in POISSON:
        deltas = np.array([delta(first, second, math.log1p(1 / (a - 1))) for a in orders])
        bounds = theorem_6(orders, np.array(worst), deltas, which[0])
    else:
        bounds = theorem(orders, np.array(worst), *which)
    numbers = law(*which)
    chosen, other = best(first, numbers), best(second, numbers)
    for order, bound in zip(orders, bounds, strict=True):
        assert divergence(chosen, other, order) <= bound * (1 + 1e-9) + 1e-9
        assert divergence(other, chosen, order) <= bound * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("rate", [1.0, 0.1])
@pytest.mark.parametrize("noise", [1.0, 4.0])
@pytest.mark.parametrize(("mean", "shape"), [*LAWS, *POISSON])
def test_the_best_of_gaussian_outcomes_exactly_loses_less_than_is_counted(mean, shape, noise, rate):
    """The outcome is its own score, which is the worst case: its delta is integrated."""
    run = FULL if rate == 1 else {"batch_size": 100, "dataset_size": 1000}
    release = searched(mean, shape, noise, **run)
    counted = accounting.spent([release], 1e-4)
    chosen, other = (best(each, law(mean, shape)) for each in gaussian_outcomes(noise, rate))
    assert delta(chosen, other, counted) <= 1e-4
    rates = np.cumsum(chosen[::-1]), np.cumsum(other[::-1])
    for false_positives in (0.01, 0.1):
        exact = np.interp(false_positives, *rates)
        assert exact <= best_true_positive_rate([release], false_positives)


def test_counting_only_the_published_run_would_promise_too_little():
    for mean, shape in ((10, 0.0), (10, 1.0), (8, math.inf)):
        alone = accounting.spent([Release(plan(noise_multiplier=4.0, **FULL), 1, "a")], 1e-4)
        chosen, other = (best(each, law(mean, shape)) for each in gaussian_outcomes(4.0))
        assert delta(chosen, other, alone) > 2e-4


@pytest.mark.parametrize(
    ("shape", "accountant"), [(0.0, "rdp_classic"), (1.0, "pld"), (math.inf, "rdp")]
)
def test_calibrated_noise_keeps_the_whole_search_within_epsilon_and_less_does_not(
    shape, accountant
):
    run = {"batch_size": 100, "dataset_size": 5000, "delta": 1e-5, "updates": 300}
    run |= {"best_of": BestOf(5, shape), "accountant": accountant}
    noise = accounting.noise_multiplier(epsilon=2.0, **run)
    assert accounting.epsilon(noise_multiplier=noise, **run) <= 2.0
    assert accounting.epsilon(noise_multiplier=noise - 1e-4, **run) > 2.0
    del run["updates"]
    assert accounting.updates(epsilon=2.0, noise_multiplier=noise, **run) == 300


def test_a_search_is_counted_by_renyi_divergences_whatever_the_accountant():
    release = searched(10, 1.0, 1.5, 200)
    found = [accounting.spent([release], 1e-5, name) for name in ("pld", "rdp")]
    assert found[0] == found[1]
    more = Release(plan(noise_multiplier=3.0), 50, "more")
    both = [accounting.spent([release, more], 1e-5, name) for name in ("pld", "rdp")]
    assert both[0] == both[1] > found[0]
    assert both[0] < found[0] + accounting.spent([more], 1e-5, "rdp")


def test_groups_lose_more_and_no_noise_is_no_privacy():
    release = searched(3, 1.0, 8.0, 100)
    alone, pair = (group_epsilon([release], 1e-5, size) for size in (1, 2))
    assert alone == accounting.spent([release], 1e-5)
    assert 2 * alone < pair < math.inf
    assert accounting.spent([searched(3, 1.0, 0.0)], 1e-5) == math.inf


def test_deltas_of_a_curve_are_those_of_dp_accounting():
    found = curve(searched(10, 1.0, 2.0, 100))
    epsilons = np.array([0.0, 0.5, 2.0, 9.0])
    compute = rdp_privacy_accountant.compute_delta
    expected = [compute(found.orders, found.divergences, e)[0] for e in epsilons]
    np.testing.assert_allclose(found.deltas(epsilons), expected, rtol=1e-9)


@pytest.mark.parametrize("sampling", ["truncated_poisson", "balls_in_bins"])
def test_runs_whose_sampling_has_no_renyi_divergence_are_refused(sampling):
    settings = {"largest_batch": 200, "updates_per_epoch": 16}
    with pytest.raises(ValueError, match="A search is counted by Renyi divergences"):
        accounting.spent([searched(3, 1.0, 1.0, 10, sampling=sampling, **settings)], 1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.99,), "`mean_runs` must be a finite number of at least 1. Received: 0.99"),
        ((0,), "`mean_runs` must be a finite number above 0"),
        ((math.inf,), "`mean_runs` must be a finite number"),
        ((3, -0.1), r"`shape` must be 0 \(logarithmic\), 1 \(geometric\).*Received: -0.1"),
        ((3, math.nan), "`shape` must be 0"),
        ((3, "poisson"), r"infinity \(Poisson\). Received: 'poisson'"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BestOf(*arguments)


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, math.inf])
def test_configurations_round_trip(shape):
    best_of = BestOf(7, shape, seeded=True)
    assert BestOf.from_config(best_of.get_config()) == best_of
    assert best_of.probability_of_none == (math.exp(-7) if shape == math.inf else 0)
