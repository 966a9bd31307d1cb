"""The privacy loss of balls in bins, against simulation, exact moments and known special cases."""

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.special import logsumexp

from keras_dp import accounting
from keras_dp.accounting import balls_in_bins
from keras_dp.accounting.balls_in_bins import BallsInBinsDpEvent
from tests.accounting.published import plan

STEP = 1e-4


def simulated_losses(rng, noise_multiplier, bins, epochs, rows, present):
    """Draw `log(P/Q)` of a vector of noisy sums, the target in the first bin of every epoch."""
    total = np.zeros(rows)
    for _ in range(epochs):
        x = rng.normal(size=(rows, bins)) * noise_multiplier
        x[:, 0] += present  # which bin it is makes no difference to the ratio
        ratios = (x - 0.5) / noise_multiplier**2
        total += logsumexp(ratios, axis=1) - math.log(bins)
    return total


def delta_and_error(values):
    return values.mean(), values.std() / math.sqrt(len(values))


@pytest.mark.parametrize(
    ("noise_multiplier", "bins", "epochs", "epsilons"),
    [
        (1.0, 10, 1, (0.1, 0.5, 1.0)),
        (0.5, 100, 1, (0.5, 1.0, 3.0)),
        (0.4, 30, 1, (0.5, 2.0, 5.0)),
        (0.5, 20, 4, (1.0, 4.0, 7.0)),
        (2.0, 5, 3, (0.1, 0.5, 1.0)),
    ],
)
def test_delta_is_that_of_a_simulation_and_never_below_it(noise_multiplier, bins, epochs, epsilons):
    """Both hockey stick divergences, and the power to reject 2/3 and 3/2 of the noise."""
    rng = np.random.default_rng(0)
    rows = 200_000
    event = BallsInBinsDpEvent(bins, noise_multiplier)
    found = balls_in_bins.loss_distribution(event, STEP).self_compose(epochs)
    present = simulated_losses(rng, noise_multiplier, bins, epochs, rows, 1.0)
    absent = simulated_losses(rng, noise_multiplier, bins, epochs, rows, 0.0)
    for epsilon in epsilons:
        removed, error = delta_and_error(np.maximum(0, -np.expm1(epsilon - present)))
        computed = found._pmf_remove.get_delta_for_epsilon(epsilon)
        assert removed - 4 * error < computed < 1.01 * removed + 4 * error + 1e-9
        added, error = delta_and_error(np.maximum(0, -np.expm1(epsilon + absent)))
        computed = found._pmf_add.get_delta_for_epsilon(epsilon)
        assert added - 4 * error < computed < 1.01 * added + 4 * error + 1e-6
    removed, error = delta_and_error(np.maximum(0, -np.expm1(epsilons[0] - present)))
    for factor, sign in ((2 / 3, 1), (3 / 2, -1)):
        other = BallsInBinsDpEvent(bins, noise_multiplier * factor)
        wrong = balls_in_bins.loss_distribution(other, STEP).self_compose(epochs)
        gap = wrong._pmf_remove.get_delta_for_epsilon(epsilons[0]) - removed
        assert sign * gap > 4 * error + 0.01 * removed


@pytest.mark.parametrize(("noise_multiplier", "bins"), [(1.0, 100), (0.5, 29), (2.0, 1000)])
def test_moments_of_the_ratio_are_those_of_the_generating_function(noise_multiplier, bins):
    """`E_Q (sum of terms)^a` is `a!` times a coefficient of a power series to the power of bins.

    For at most one percent above, and never below: a spread raises every convex moment.
    """
    highest = 4
    series = [
        math.exp(k * (k - 1) / (2 * noise_multiplier**2)) / math.factorial(k)
        for k in range(highest + 1)
    ]
    power = [1.0] + [0.0] * highest
    for _ in range(bins):
        power = np.convolve(power, series)[: highest + 1]
    ratio = balls_in_bins.ratio(BallsInBinsDpEvent(bins, noise_multiplier), STEP)
    for order in range(1, highest + 1):
        exact = math.factorial(order) * power[order] / bins**order
        found = np.sum(ratio.masses * np.exp(order * ratio.logs))
        assert (1 - 1e-9) * exact <= found <= (1.01 if order < 4 else 1.05) * exact


@pytest.mark.parametrize("noise_multiplier", [0.5, 1.0, 4.0])
def test_one_bin_is_the_gaussian_mechanism(noise_multiplier):
    found = balls_in_bins.loss_distribution(BallsInBinsDpEvent(1, noise_multiplier), STEP)
    gaussian = PLDAccountant().compose(GaussianDpEvent(noise_multiplier))
    exact = gaussian.get_epsilon(1e-5)
    assert exact - 1e-3 < found.get_epsilon_for_delta(1e-5) < 1.01 * exact


def test_a_finer_grid_gives_a_smaller_delta_and_changes_little():
    event = BallsInBinsDpEvent(50, 0.7)
    fine = balls_in_bins.loss_distribution(event, STEP)
    rough = balls_in_bins.loss_distribution(event, STEP, rough=True)
    for epsilon in (0.2, 1.0, 2.0):
        fine_delta, rough_delta = (d.get_delta_for_epsilon(epsilon) for d in (fine, rough))
        assert fine_delta <= rough_delta <= 1.1 * fine_delta


def test_epsilon_lies_between_that_of_known_places_and_about_that_of_poisson_sampling():
    settings = {"batch_size": 100, "dataset_size": 2900, "updates": 290, "delta": 1e-5}
    for noise_multiplier in (0.6, 1.0, 3.0):
        found, poisson, shuffled = (
            accounting.epsilon(noise_multiplier=noise_multiplier, sampling=sampling, **settings)
            for sampling in ("balls_in_bins", "poisson", "shuffle")
        )
        assert 0.7 * poisson < found < 1.02 * poisson
        assert found < shuffled / 2


def test_an_epoch_that_was_begun_counts_as_a_whole_one():
    def spent(*stretches):
        settings = plan(sampling="balls_in_bins", batch_size=100, updates_per_epoch=10)
        releases = [accounting.Release(settings, n, f"{i}") for i, n in enumerate(stretches)]
        return accounting.spent(releases, 1e-5)

    assert spent(11) == spent(20) == spent(10, 10) == spent(3, 7)
    assert spent(21) > spent(20) > spent(10)
    assert spent(5, 5, 5) == spent(30)


def test_next_to_no_noise_is_bounded_as_if_the_places_were_known():
    settings = {"batch_size": 60, "dataset_size": 60000, "updates": 1000, "delta": 1e-5}
    known = accounting.epsilon(noise_multiplier=0.02, sampling="shuffle", **settings)
    found = accounting.epsilon(noise_multiplier=0.02, sampling="balls_in_bins", **settings)
    assert math.isfinite(found)
    assert found == pytest.approx(known, rel=0.1)


@pytest.mark.parametrize("sampling", ["balls_in_bins", "truncated_poisson", "shuffle"])
def test_calibration_meets_its_target_with_whole_epochs(sampling):
    settings = {"batch_size": 100, "dataset_size": 2900, "updates": 300, "sampling": sampling}
    noise = accounting.noise_multiplier(epsilon=2.0, delta=1e-5, **settings)
    assert accounting.epsilon(noise_multiplier=noise, delta=1e-5, **settings) <= 2.0
    assert accounting.epsilon(noise_multiplier=noise * 0.999, delta=1e-5, **settings) > 2.0
    del settings["updates"]
    most = accounting.updates(epsilon=2.0, delta=1e-5, noise_multiplier=noise, **settings)
    assert most >= 300
    assert sampling == "truncated_poisson" or most % 29 == 0
