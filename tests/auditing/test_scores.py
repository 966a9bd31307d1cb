"""Scores tell canaries that took part from those that did not, by simulated updates."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from keras_dp.auditing import scores as scoring
from keras_dp.auditing.scores import Seen

CANARIES, EPOCHS, STEPS = 2000, 6, 5


def seen(included, *, noise=2.0, signal=1.0, probability=0.2, seed=0):
    """What an adversary sees of a sampled Gaussian mechanism."""
    rng = np.random.default_rng(seed)
    updates = EPOCHS * STEPS
    taken = rng.random((updates, CANARIES)) < probability
    sums = noise * rng.normal(size=taken.shape) + signal * (taken & included)
    variables = np.repeat([0, 1], [CANARIES - 200, 200])
    places = rng.permutation(CANARIES)
    return Seen(sums, variables, places, probability, noise, signal, STEPS, CANARIES // STEPS)


def coins(seed=1):
    return np.random.default_rng(seed).random(CANARIES) < 0.5


def right(scored, included):
    return ((scored.scores > scored.threshold) == included).mean()


def test_on_the_full_batch_the_likelihood_ratio_is_the_plain_sum():
    """Its accuracy is Phi(mu / 2) with mu = sqrt(updates) / noise, which no test can exceed."""
    included = coins()
    data = seen(included, noise=4.0, probability=1.0)
    scored = scoring.likelihood(data)
    expected = (data.sums - 0.5).sum(0) / 16
    np.testing.assert_allclose(scored.scores, expected, rtol=1e-9, atol=1e-9)
    best = norm.cdf((EPOCHS * STEPS) ** 0.5 / 4 / 2)
    assert right(scored, included) == pytest.approx(best, abs=4 * 0.5 * CANARIES**-0.5)


def test_under_sampling_the_likelihood_ratio_is_that_of_the_two_mixtures():
    data = seen(coins(), noise=0.7)
    inside = 0.8 * norm.pdf(data.sums, 0, 0.7) + 0.2 * norm.pdf(data.sums, 1, 0.7)
    expected = np.log(inside / norm.pdf(data.sums, 0, 0.7)).sum(0)
    np.testing.assert_allclose(scoring.likelihood(data).scores, expected, rtol=1e-6, atol=1e-6)


def test_the_noise_is_measured_on_each_variable_whatever_drifts_and_takes_part():
    data = seen(coins(), noise=2.0)
    data.sums[:, 1800:] *= 0.01  # the second variable has a hundredth of the noise
    drifting = replace(data, sums=data.sums + 50)
    measured = scoring.measured_noise(drifting)
    np.testing.assert_allclose(measured[:1800], 2.0, rtol=0.05)
    np.testing.assert_allclose(measured[1800:], 0.02, rtol=0.05)
    once = replace(data, sums=data.sums[:1])
    np.testing.assert_array_equal(scoring.measured_noise(once), 2.0)


def test_a_variable_without_noise_is_read_without_error():
    included = coins()
    data = seen(included)
    silent = seen(included, noise=0.0)
    data.sums[:, 1800:] = silent.sums[:, 1800:]
    scored = scoring.likelihood(data)
    took_part = (silent.sums[:, 1800:] > 0).any(0)
    np.testing.assert_array_equal(scored.scores[1800:] > 0, took_part)


def test_differences_see_canaries_under_noise_that_repeats_and_hardly_otherwise():
    included = coins()
    silent = seen(included, noise=0.0)
    repeated = replace(
        silent, sums=silent.sums + 3 * np.random.default_rng(2).normal(size=CANARIES)
    )
    came_and_went = np.ptp(silent.sums, axis=0) > 0
    assert right(scoring.differences(repeated), came_and_went) == 1
    assert right(scoring.differences(seen(included, noise=3.0)), included) < 0.56


@pytest.mark.parametrize(
    ("name", "shuffled"), [("fixed place in an epoch", False), ("same place in every epoch", True)]
)
def test_fixed_orders_are_seen_by_the_statistics_made_for_them(name, shuffled):
    included = coins()
    data = seen(np.zeros(CANARIES, bool), noise=1.0)
    order = np.random.default_rng(3).permutation(CANARIES) if shuffled else data.places
    turn = order // (CANARIES // STEPS)
    for epoch in range(EPOCHS):
        data.sums[epoch * STEPS + turn, np.arange(CANARIES)] += included
    found = {key: right(statistic(data), included) for key, statistic in scoring.STATISTICS.items()}
    assert max(found, key=found.get) == name
    known = norm.cdf(EPOCHS**0.5 / 2)
    assert found[name] > (known - 0.04 if not shuffled else 0.75)
    assert found["likelihood ratio"] < 0.75


@pytest.mark.parametrize(
    ("updates", "steps", "probability", "count"),
    [(30, 5, 0.2, 4), (30, 1, 0.9, 2), (30, 1, 1.0, 1), (1, 1, 0.5, 1)],
)
def test_only_statistics_that_can_show_anything_are_used(updates, steps, probability, count):
    names = scoring.applicable(updates, steps, probability)
    assert names == list(scoring.STATISTICS)[:count]
