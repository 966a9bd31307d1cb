"""Scores of gradient canaries: from what an adversary saw to evidence of having taken part.

A fault that is not known beforehand shows in different ways, so there are several statistics. Each
is a function of what was seen, and none of the coins: any of them may be used to guess.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_dp.auditing.bounds import two_clusters

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_LEAST_NOISE = 1e-3
_NEARLY = 0.75
_NORMAL_DEVIATION = 0.6745
"""Median of the absolute value of a standard normal number; of the difference of two of them it is
larger by the root of 2."""


@dataclass(frozen=True)
class Seen:
    """What the adversary saw at the weights of gradient canaries, and what it knows.

    Attributes:
        sums: Shape `(updates, canaries)`: noisy sums less what ordinary examples were expected to
            add, in units of the sensitivity.
        variables: Number of each canary's trainable variable.
        places: Position of each canary among the examples.
        probability: With which an example takes part in an update.
        noise: Claimed standard deviation of the noise, in units of the sensitivity.
        signal: What a canary adds where it takes part, in the same units.
        steps: Updates in an epoch.
        batch_size: The declared batch size.
    """

    sums: Floats
    variables: Ints
    places: Ints
    probability: float
    noise: float
    signal: float
    steps: int
    batch_size: int


@dataclass(frozen=True)
class Scored:
    """One statistic's scores.

    Attributes:
        scores: For each canary; high says "took part".
        threshold: Above which it is guessed that it did.
    """

    scores: Floats
    threshold: float


def measured_noise(seen: Seen) -> Floats:
    """Return the standard deviation of the noise on each canary's variable, as it was seen.

    From differences of consecutive updates, which what is constant or drifts leaves alone; by their
    median, which canaries that take part now and then leave nearly alone. With a single update it
    is the claimed one.
    """
    if len(seen.sums) < 2:
        return np.full(seen.sums.shape[1], seen.noise)
    differences = np.abs(np.diff(seen.sums, axis=0))
    measured = np.empty(seen.sums.shape[1])
    for variable in np.unique(seen.variables):
        here = seen.variables == variable
        measured[here] = np.median(differences[:, here]) / (2**0.5 * _NORMAL_DEVIATION)
    return measured


def likelihood(seen: Seen) -> Scored:
    """Score by the likelihood ratio of sampled Gaussian noise around 0 and around the signal.

    `sum_t log(1 - q + q exp((signal x_t - signal^2 / 2) / s^2))`: the best statistic for the
    claimed mechanism, and a matched filter, the plain sum, for the full batch. Where a variable's
    noise is seen to be clearly less than claimed, `s` is what was seen.
    """
    measured = measured_noise(seen)
    noise = np.where(measured > _NEARLY * seen.noise, seen.noise, measured)
    ratios = _log_ratios(seen.sums, seen.signal, np.maximum(noise, _LEAST_NOISE))
    with np.errstate(divide="ignore"):
        mixed = np.logaddexp(np.log1p(-seen.probability), np.log(seen.probability) + ratios)
    return Scored(mixed.sum(0), 0.0)


def differences(seen: Seen) -> Scored:
    """Score by the logarithm of the squared differences of consecutive updates.

    They see a canary that comes and goes when noise is the same in every update. Then what was left
    out differs by orders of magnitude, which the logarithm puts far apart.
    """
    squares = np.square(np.diff(seen.sums, axis=0)).sum(0)
    return _clustered(np.log(np.maximum(squares, _LEAST_NOISE**2)))


def fixed_place(seen: Seen) -> Scored:
    """Score by the update of each epoch to which an unshuffled sampler would put the canary."""
    folded = _folded(seen)
    turn = np.minimum(seen.places // seen.batch_size, seen.steps - 1)
    return _clustered(folded[turn, np.arange(len(turn))])


def same_place(seen: Seen) -> Scored:
    """Score by an unknown update that is the same in every epoch, as after one shuffling.

    What the ordinary examples of a batch add is then the same in every epoch too, so the deviation
    is the one that is seen.
    """
    folded = _folded(seen)
    epochs = len(seen.sums) // seen.steps
    deviation = np.median(np.abs(folded - np.median(folded))) / _NORMAL_DEVIATION
    ratios = _log_ratios(folded, epochs * seen.signal, max(deviation, _LEAST_NOISE))
    return Scored(np.logaddexp.reduce(ratios, axis=0) - np.log(seen.steps), 0.0)


STATISTICS: dict[str, Callable[[Seen], Scored]] = {
    "likelihood ratio": likelihood,
    "differences of updates": differences,
    "fixed place in an epoch": fixed_place,
    "same place in every epoch": same_place,
}
"""The statistics by name; the first is the best one for the claimed mechanism."""


def applicable(seen_updates: int, steps: int, probability: float) -> list[str]:
    """Return the names of the statistics that can show anything with such a plan.

    Args:
        seen_updates: Number of updates.
        steps: Updates in an epoch.
        probability: With which an example takes part in an update.
    """
    names = list(STATISTICS)
    if seen_updates < 2 or probability >= 1:
        return names[:1]
    return names if steps > 1 else names[:2]


def _log_ratios(values: Floats, signal: float, noise: Any) -> Floats:
    return np.asarray((signal * values - signal**2 / 2) / noise**2, np.float64)


def _folded(seen: Seen) -> Floats:
    return np.asarray(seen.sums.reshape(-1, seen.steps, seen.sums.shape[1]).sum(0), np.float64)


def _clustered(scores: Floats) -> Scored:
    return Scored(scores, two_clusters(scores))
