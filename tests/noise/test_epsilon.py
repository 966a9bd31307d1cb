"""What discrete noise spends, by adding up its law, against what the accountant says."""

import itertools
import math

import numpy as np
import pytest

from keras_dp import accounting

STEPS, OVERLAP = 8, 2
"""A lattice so coarse that its law can be added up: the proof of docs/noise.md allows it."""

FAR = 5.0
"""How far apart, in steps, the rounded sums of neighbours are at most: a clip norm and sqrt(2)."""

SCHEMES = {"full_batch": 1.0, "poisson": 0.1}


def law(variance):
    outcomes = np.arange(-150, 151)
    masses = np.exp(-(outcomes**2) / (2 * variance))
    return masses / masses.sum()


def least_delta(epsilon, rate, variance):
    """The exact delta at epsilon, for the worst of all integer vectors that are not too long."""
    masses, found = law(variance), 0.0
    without = np.outer(masses, masses)
    for shift in itertools.product(range(math.ceil(FAR) + 1), repeat=2):
        if 0 < math.hypot(*shift) <= FAR:
            taken = np.outer(*(np.roll(masses, moved) for moved in shift))
            mixed = (1 - rate) * without + rate * taken
            for one, other in ((without, mixed), (mixed, without)):
                found = max(found, np.maximum(one - math.exp(epsilon) * other, 0).sum())
    return found


@pytest.mark.parametrize("sampling", SCHEMES)
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_discrete_noise_spends_no_more_than_the_accountant_says_and_nearly_that(sampling, delta):
    rate, variance = SCHEMES[sampling], STEPS**2 + OVERLAP**2
    epsilon = accounting.epsilon(
        noise_multiplier=STEPS / FAR,
        batch_size=round(100 * rate),
        dataset_size=100,
        updates=1,
        delta=delta,
        sampling=sampling,
    )
    assert least_delta(epsilon, rate, variance) <= delta
    assert least_delta(0.8 * epsilon, rate, variance) > delta
    assert least_delta(epsilon, rate, variance * 4 / 9) > delta
    assert least_delta(epsilon, rate, variance * 9 / 4) < delta / 10
