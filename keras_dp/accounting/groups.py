"""What several rows of one person lose together.

References:
    Ganesh 2024, Tight Group-Level DP Guarantees for DP-SGD with Sampling via Mixture of Gaussians
    Mechanisms (https://arxiv.org/abs/2401.10294); Vadhan 2017, The Complexity of Differential
    Privacy, Lemma 2.2, for groups in general.
"""

import functools
import math
from collections.abc import Iterable

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
from scipy.stats import binom

from keras_dp import validation
from keras_dp.accounting import pld
from keras_dp.accounting.balls_in_bins import BallsInBinsDpEvent
from keras_dp.accounting.composition import composition_of
from keras_dp.accounting.ledger import Release
from keras_dp.accounting.rdp import Composition

_NO_NOISE = 1e-6
_LARGE = 20.0
"""Above this a fine grid is needed, and worth its seconds."""


def group_epsilon(releases: Iterable[Release], delta: float, size: int) -> float:
    """Return the epsilon of a group of examples that are added or removed together.

    By the mixture of Gaussians that a Poisson sample of the group amounts to; as if all were in
    one update for shuffled data and balls in bins; for truncated samples by the property that
    every private mechanism has.

    Args:
        releases: What was released, with noise.
        delta: Float in (0, 1).
        size: Number of examples in the group.

    Raises:
        ValueError: when an argument is out of range.
    """
    size = validation.positive_int("size", size)
    validation.open_probability("delta", delta)
    releases = tuple(releases)
    if not releases:
        return 0.0
    if any(release.plan.noise_multiplier < _NO_NOISE for release in releases):
        return math.inf
    return _group_epsilon(composition_of(releases), delta, size)


@functools.lru_cache(maxsize=128)
def _group_epsilon(composition: Composition, delta: float, size: int) -> float:
    if size == 1:
        return pld.epsilon(composition, delta)
    bound = _of_any_mechanism(composition, delta, size)
    grouped = [(_grouped(event, size), count) for event, count in composition]
    known = tuple((event, count) for event, count in grouped if event is not None)
    if len(known) < len(composition):
        return bound
    rough = pld.epsilon(known, delta, rough=True)
    return min(bound, rough if rough < _LARGE else pld.epsilon(known, delta))


def _grouped(event: DpEvent, size: int) -> DpEvent | None:
    """Return the event of a group, or `None` where there is no analysis of its own."""
    if isinstance(event, GaussianDpEvent):
        return GaussianDpEvent(event.noise_multiplier / size)
    if isinstance(event, BallsInBinsDpEvent):
        return GaussianDpEvent(event.noise_multiplier / size)
    if isinstance(event, PoissonSampledDpEvent):
        present = np.arange(size + 1)
        probabilities = binom.pmf(present, size, event.sampling_probability)
        return MixtureOfGaussiansDpEvent(
            event.event.noise_multiplier,
            tuple(float(k) for k in present),
            tuple(float(p) for p in probabilities / np.sum(probabilities)),
        )
    return None


def _of_any_mechanism(composition: Composition, delta: float, size: int) -> float:
    """Return `size * e` for the least e with `delta(e) * sum_(i < size) exp(i * e) <= delta`."""
    epsilons, deltas = pld.curve(composition)
    factors = np.logaddexp.reduce(np.outer(np.arange(size), epsilons), axis=0)
    fits = np.log(deltas) + factors <= math.log(delta)
    return size * float(epsilons[np.argmax(fits)]) if np.any(fits) else math.inf
