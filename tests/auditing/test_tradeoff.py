"""Trade-off functions agree with closed formulas, with the accountant and with each other."""

import numpy as np
import pytest
from scipy.stats import norm

from keras_dp import accounting, auditing
from keras_dp.auditing.tradeoff import ClaimedFamily, gaussian_mu
from tests.accounting.published import plan

DELTA = 1e-5


@pytest.mark.parametrize("updates", [1, 7, 100])
@pytest.mark.parametrize("noise", [1.0, 4.0, 20.0])
def test_epsilon_of_a_gaussian_mechanism_is_the_accountants(noise, updates):
    """k updates of the full batch are one Gaussian mechanism of mu = sqrt(k) / noise."""
    mu = updates**0.5 / noise
    expected = accounting.epsilon(
        noise_multiplier=noise,
        batch_size=10,
        dataset_size=10,
        updates=updates,
        delta=DELTA,
        sampling="full_batch",
    )
    found = auditing.gaussian_epsilon(mu, DELTA)
    assert found == pytest.approx(expected, rel=2e-3, abs=2e-4)
    if found > 0:
        assert gaussian_mu(found, DELTA) == pytest.approx(mu, rel=1e-6)


@pytest.mark.parametrize("mu", [1e-3, 0.3, 1.0, 6.0, 50.0])
def test_epsilon_of_a_gaussian_mechanism_solves_the_equation_for_delta(mu):
    epsilon = auditing.gaussian_epsilon(mu, DELTA)
    if epsilon == 0:
        assert norm.cdf(mu / 2) - norm.cdf(-mu / 2) <= DELTA * 100
        return
    first, second = norm.logcdf(mu / 2 - epsilon / mu), norm.logcdf(-mu / 2 - epsilon / mu)
    assert np.exp(first) - np.exp(epsilon + second) == pytest.approx(DELTA, rel=1e-6)


def test_the_gaussian_trade_off_is_that_of_the_threshold_test():
    thresholds = np.linspace(-3, 4, 50)
    fpr, tpr = norm.sf(thresholds), norm.sf(thresholds, loc=1.3)
    gaussian = auditing.Gaussian(1.3)
    np.testing.assert_allclose(gaussian.least_fpr(tpr), fpr, rtol=1e-9)
    assert gaussian.advantage == pytest.approx(np.max(norm.sf(0.65 - 1.3) - norm.sf(0.65)))


def test_many_pairs_of_epsilon_and_delta_make_up_the_gaussian_trade_off():
    mu = 1.0
    epsilons = np.linspace(0, 8, 400)
    deltas = norm.cdf(mu / 2 - epsilons / mu) - np.exp(epsilons) * norm.cdf(-mu / 2 - epsilons / mu)
    profile = auditing.Profile(tuple(epsilons), tuple(deltas))
    tpr = np.linspace(0.001, 0.999, 200)
    expected = auditing.Gaussian(mu).least_fpr(tpr)
    np.testing.assert_allclose(profile.least_fpr(tpr), expected, atol=2e-4)
    assert (profile.least_fpr(tpr) <= expected + 1e-12).all()  # it never claims too much
    assert profile.advantage == pytest.approx(auditing.Gaussian(mu).advantage, abs=1e-12)


def test_one_pair_is_the_definition_of_differential_privacy():
    epsilon, delta = 1.5, 0.01
    profile = auditing.Profile((epsilon,), (delta,))
    for tpr in np.linspace(0, 1, 101):
        least = profile.least_fpr(tpr)
        assert tpr <= np.exp(epsilon) * least + delta + 1e-12
        assert 1 - least <= np.exp(epsilon) * (1 - tpr) + delta + 1e-12
    assert profile.least_fpr(0.0) == 0
    assert profile.least_fpr(1.0) == pytest.approx(1 - delta)
    grid = np.linspace(0, 1, 100_001)
    assert profile.advantage == pytest.approx(np.max(grid - profile.least_fpr(grid)), abs=1e-4)


@pytest.mark.parametrize("claim", [plan(), plan(sampling="full_batch", batch_size=1000)])
def test_the_claimed_mechanism_is_the_member_of_strength_one(claim):
    family = ClaimedFamily(claim, 40, DELTA)
    release = accounting.Release(claim, 40, "test")
    assert family.epsilon(1.0, DELTA) == accounting.spent([release], DELTA)
    strengths = (0.25, 1.0, 3.0)
    advantages = [family.member(strength).advantage for strength in strengths]
    assert advantages == sorted(advantages)
    assert [family.epsilon(s, DELTA) for s in strengths] == sorted(
        family.epsilon(s, DELTA) for s in strengths
    )


def test_the_trade_off_of_poisson_samples_is_what_sampling_and_testing_gives():
    """The best test of the sampled mechanism, by simulation, reaches the advantage and no more."""
    claim, updates = plan(batch_size=200, dataset_size=1000, noise_multiplier=1.0), 10
    rng = np.random.default_rng(0)
    size, rate = 400_000, 0.2

    def log_ratio(values):
        return np.log1p(rate * np.expm1(values - 0.5)).sum(1)

    without = rng.normal(size=(size, updates))
    taken = rng.random((size, updates)) < rate
    inside, outside = log_ratio(without + taken), log_ratio(rng.normal(size=(size, updates)))
    reached = (inside > 0).mean() - (outside > 0).mean()
    member = ClaimedFamily(claim, updates, DELTA).member(1.0)
    assert member.advantage == pytest.approx(reached, abs=5 * size**-0.5)
    tpr, fpr = (inside > 1).mean(), (outside > 1).mean()
    # The trade-off function holds for both directions of adding and removing.
    assert member.least_fpr(tpr) <= fpr + 5 * size**-0.5
    assert member.least_fpr(tpr) > fpr / 1.5


def test_a_profile_of_two_lengths_is_refused():
    with pytest.raises(ValueError, match=r"same number of entries.*2 and 1"):
        auditing.Profile((0.0, 1.0), (0.1,))


@pytest.mark.parametrize(("mu", "delta", "message"), [(-1.0, 0.1, "`mu`"), (1.0, 0.0, "`delta`")])
def test_impossible_gaussian_mechanisms_are_refused(mu, delta, message):
    with pytest.raises(ValueError, match=message):
        auditing.gaussian_epsilon(mu, delta)
