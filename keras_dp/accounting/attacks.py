"""What an attacker could do at best, who knows everything but whether one example was there."""

import math
from collections.abc import Iterable

import numpy as np

from keras_dp import validation
from keras_dp.accounting import pld
from keras_dp.accounting.composition import composition_of
from keras_dp.accounting.ledger import Release

_NO_NOISE = 1e-6


def best_true_positive_rate(releases: Iterable[Release], false_positive_rate: float) -> float:
    """Return an upper bound of an attacker's true positive rate.

    The bound is `min over e >= 0 of exp(e) * false_positive_rate + delta(e)`. It answers two
    questions. Membership: who accuses a share `false_positive_rate` of the people who were not in
    the data finds at most this share of those who were. Reconstruction: who would guess an example
    rightly with probability `false_positive_rate` without the model does so with at most this
    probability with it, whatever the attack and whatever else is known.

    Args:
        releases: What was released.
        false_positive_rate: Float in (0, 1).

    Raises:
        ValueError: when the rate is out of range.

    References:
        Dong, Roth, Su 2019, Gaussian Differential Privacy (https://arxiv.org/abs/1905.02383);
        Hayes, Mahloujifar, Balle 2023, Bounding Training Data Reconstruction in DP-SGD, Theorem 2
        (https://arxiv.org/abs/2302.07225).
    """
    rate = validation.open_probability("false_positive_rate", false_positive_rate)
    releases = tuple(releases)
    if not releases:
        return rate
    if any(release.plan.noise_multiplier < _NO_NOISE for release in releases):
        return 1.0
    epsilons, deltas = pld.curve(composition_of(releases))
    with np.errstate(over="ignore"):
        return float(min(1.0, np.min(np.exp(epsilons + math.log(rate)) + deltas)))
