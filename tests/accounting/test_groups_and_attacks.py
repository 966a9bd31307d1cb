"""What groups lose and what attackers gain, against closed forms and simulation."""

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.special import logsumexp
from scipy.stats import binom, norm

from keras_dp.accounting import Release
from keras_dp.accounting.attacks import best_true_positive_rate
from keras_dp.accounting.groups import group_epsilon
from tests.accounting.published import plan


def released(updates=1, **settings):
    return (Release(plan(**settings), updates, "a"),)


FULL = {"sampling": "full_batch", "batch_size": 1000, "dataset_size": 1000}


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_group_in_a_full_batch_is_one_gaussian_with_less_noise(size):
    found = group_epsilon(released(noise_multiplier=6.0, **FULL), 1e-5, size)
    exact = PLDAccountant().compose(GaussianDpEvent(6.0 / size)).get_epsilon(1e-5)
    assert exact - 1e-3 <= found <= 1.02 * exact


@pytest.mark.parametrize(("size", "noise_multiplier"), [(2, 1.0), (4, 2.0)])
def test_a_group_in_a_poisson_sample_is_simulated(size, noise_multiplier):
    """One update: the worst sum has as many ones as members were drawn."""
    rng, rows, q, delta = np.random.default_rng(0), 1_000_000, 0.1, 1e-3
    settings = {"batch_size": 100, "dataset_size": 1000, "noise_multiplier": noise_multiplier}
    epsilon = group_epsilon(released(**settings), delta, size)
    members = np.arange(size + 1)
    weights = binom.logpmf(members, size, q)
    x = rng.binomial(size, q, rows) + noise_multiplier * rng.normal(size=rows)
    losses = logsumexp(
        weights + (members * x[:, None] - members**2 / 2) / noise_multiplier**2, axis=1
    )

    def simulated(at):
        values = np.maximum(0, -np.expm1(at - losses))
        return values.mean(), values.std() / math.sqrt(rows)

    value, error = simulated(epsilon)
    assert value - 4 * error <= delta <= 1.05 * value + 4 * error
    value, error = simulated(2 / 3 * epsilon)
    assert value - 4 * error > delta
    assert epsilon > 1.2 * group_epsilon(released(**settings), delta, 1)


@pytest.mark.parametrize(
    ("sampling", "settings"),
    [
        ("truncated_poisson", {"largest_batch": 200}),
        ("balls_in_bins", {"updates_per_epoch": 10}),
    ],
)
def test_a_group_without_an_analysis_of_its_own_has_the_general_bound(sampling, settings):
    releases = released(10, sampling=sampling, batch_size=100, noise_multiplier=3.0, **settings)
    one, two, three = (group_epsilon(releases, 1e-4, size) for size in (1, 2, 3))
    assert 2 * one < two < 4 * one
    assert 3 * one < three < 7 * one


def test_groups_of_nothing_and_without_noise():
    assert group_epsilon((), 1e-5, 3) == 0.0
    assert group_epsilon(released(noise_multiplier=0.0), 1e-5, 3) == math.inf
    with pytest.raises(ValueError, match="`size` must be a whole number of at least 1"):
        group_epsilon(released(), 1e-5, 0)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("noise_multiplier", [0.7, 1.0, 4.0])
def test_the_best_attack_on_a_gaussian_is_the_likelihood_ratio(noise_multiplier, rate):
    exact = norm.cdf(norm.ppf(rate) + 1 / noise_multiplier)
    found = best_true_positive_rate(released(noise_multiplier=noise_multiplier, **FULL), rate)
    assert exact <= found <= 1.01 * exact


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_the_best_attack_on_a_sampled_gaussian_is_the_likelihood_ratio(rate):
    """The mixture's likelihood ratio grows with the sum, so a threshold on the sum is best."""
    q, noise_multiplier = 0.2, 0.6
    threshold = norm.isf(rate) * noise_multiplier
    exact = (1 - q) * rate + q * norm.sf((threshold - 1) / noise_multiplier)
    settings = {"batch_size": 200, "noise_multiplier": noise_multiplier}
    found = best_true_positive_rate(released(**settings), rate)
    assert exact <= found <= 1.01 * exact
    weaker = best_true_positive_rate(released(**{**settings, "noise_multiplier": 0.9}), rate)
    assert weaker < exact


def test_attacks_on_nothing_and_without_noise():
    assert best_true_positive_rate((), 0.1) == 0.1
    assert best_true_positive_rate(released(noise_multiplier=0.0), 0.1) == 1.0
    with pytest.raises(ValueError, match="`false_positive_rate` must lie strictly between"):
        best_true_positive_rate(released(), 1.0)
