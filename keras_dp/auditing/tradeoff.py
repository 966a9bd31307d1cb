"""Trade-off functions, and families of them that an observed attack is held against.

A mechanism is f-DP when no test of "the example took part" against "it did not" has a false
positive rate below `f` at its true positive rate. An attack that is too good for `f` refutes the
claim of f-DP. In a family that is ordered by strength, the strongest member that is refuted gives a
lower bound on epsilon.
"""

import abc
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from keras_dp import accounting, validation
from keras_dp.accounting import Release
from keras_dp.plan import PrivacyPlan

Array = npt.NDArray[np.float64]

MOST_MU = 60.0
"""Beyond it a Gaussian mechanism hides nothing that a double can show."""

_GRID_STEP = 1e-3
_GRID_POINTS_OF_ONE_UPDATE = 2_000
_LEAST_NOISE = 0.25
_LEAST_RANGE = 4.0
_LEAST_DELTA = 1e-12
_PROFILE_POINTS = 150


class TradeOff(abc.ABC):
    """A symmetric trade-off function: what the best test can reach."""

    @abc.abstractmethod
    def least_fpr(self, tpr: Any) -> Array:
        """Return the least false positive rate of any test with these true positive rates."""

    @property
    @abc.abstractmethod
    def advantage(self) -> float:
        """The largest `tpr - fpr` of any test, which is the total variation distance."""


@dataclass(frozen=True)
class Gaussian(TradeOff):
    """Telling `N(0, 1)` from `N(mu, 1)`.

    Args:
        mu: Float of at least 0.

    References:
        Dong, Roth, Su 2019, Gaussian Differential Privacy.
    """

    mu: float

    def least_fpr(self, tpr: Any) -> Array:
        """Return `Phi(Phi^-1(tpr) - mu)`."""
        return np.asarray(ndtr(ndtri(tpr) - self.mu), np.float64)

    @property
    def advantage(self) -> float:
        """`2 Phi(mu / 2) - 1`."""
        return float(2 * ndtr(self.mu / 2) - 1)


@dataclass(frozen=True)
class Profile(TradeOff):
    """What (epsilon, delta)-differential privacy at several pairs together leaves possible.

    Args:
        epsilons: Floats of at least 0.
        deltas: For each the delta at which it holds.

    Raises:
        ValueError: when the two differ in length or are empty.

    References:
        Dong, Roth, Su 2019, Gaussian Differential Privacy, proposition 2.12.
    """

    epsilons: tuple[float, ...]
    deltas: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse lists that do not belong together."""
        if not self.epsilons or len(self.epsilons) != len(self.deltas):
            raise ValueError(
                "`epsilons` and `deltas` must have the same number of entries, at least one. "
                f"Received {len(self.epsilons)} and {len(self.deltas)}."
            )

    def least_fpr(self, tpr: Any) -> Array:
        """Return the largest of the bounds that the pairs give."""
        tpr = np.asarray(tpr, np.float64)[..., None]
        epsilons, deltas = np.asarray(self.epsilons), np.asarray(self.deltas)
        rising = np.exp(-epsilons) * (tpr - deltas)
        with np.errstate(over="ignore", invalid="ignore"):
            falling = 1 - deltas - np.exp(epsilons) * (1 - tpr)
        falling = np.where(np.isnan(falling), 1 - deltas, falling)  # infinity times 0, at tpr 1
        return np.asarray(np.clip(np.maximum(rising, falling).max(-1), 0.0, 1.0), np.float64)

    @property
    def advantage(self) -> float:
        """The least that one of the pairs allows: `1 - 2 (1 - delta) / (1 + exp(epsilon))`."""
        tails = [
            2 * (1 - delta) * math.exp(-np.logaddexp(0.0, epsilon))
            for epsilon, delta in zip(self.epsilons, self.deltas, strict=True)
        ]
        return float(np.clip(1 - max(tails), 0.0, 1.0))


class Family(abc.ABC):
    """Trade-off functions ordered by a strength: a stronger member hides less."""

    weakest: float
    """The strength below which members are not told from perfect privacy."""

    strongest: float
    """The largest strength of a member."""

    @abc.abstractmethod
    def member(self, strength: float) -> TradeOff:
        """Return the member of this strength."""

    @abc.abstractmethod
    def epsilon(self, strength: float, delta: float) -> float:
        """Return the epsilon of this member at `delta`."""


class GaussianFamily(Family):
    """The Gaussian mechanisms; a member's strength is its `mu`."""

    weakest = 1e-4
    strongest = MOST_MU

    def member(self, strength: float) -> Gaussian:
        """Return the trade-off function of `mu = strength`."""
        return Gaussian(strength)

    def epsilon(self, strength: float, delta: float) -> float:
        """Return `gaussian_epsilon(strength, delta)`."""
        return gaussian_epsilon(strength, delta)


class ClaimedFamily(Family):
    """A claimed mechanism with other noise: strength 2 is the same with half the noise.

    Strength 1 is the claim itself, so a lower bound above its epsilon refutes the claim whatever
    the shape of its trade-off function. Poisson samples have the trade-off function of their
    privacy loss distribution, rounded so that it allows too much rather than too little. All else
    has the Gaussian one with the same epsilon at `delta`, which is exact without amplification.

    Args:
        plan: How every update was privatized.
        updates: Number of updates.
        delta: Float in (0, 1).
    """

    weakest = 1e-4

    def __init__(self, plan: PrivacyPlan, updates: int, delta: float) -> None:
        self._plan, self._updates, self._delta = plan, updates, delta
        self.strongest = max(_LEAST_RANGE, min(64.0, plan.noise_multiplier / _LEAST_NOISE))

    def member(self, strength: float) -> TradeOff:
        """Return the trade-off function with `1 / strength` of the noise."""
        event = accounting.event(self._with_noise(strength))
        if isinstance(event, PoissonSampledDpEvent):
            return _subsampled(event, self._updates)
        if isinstance(event, GaussianDpEvent):  # mu is in inverse proportion to the noise
            return Gaussian(strength * self._mu(1.0))
        return Gaussian(self._mu(strength))

    def epsilon(self, strength: float, delta: float) -> float:
        """Return what the accountant says of `1 / strength` of the noise."""
        release = Release(self._with_noise(strength), self._updates, "audit")
        return accounting.spent([release], delta)

    def _mu(self, strength: float) -> float:
        return gaussian_mu(self.epsilon(strength, self._delta), self._delta)

    def _with_noise(self, strength: float) -> PrivacyPlan:
        return replace(self._plan, noise_multiplier=self._plan.noise_multiplier / strength)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the epsilon of the Gaussian mechanism `mu` at `delta`.

    The root of `delta(epsilon) = Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu)`,
    in logarithms.

    Args:
        mu: Float of at least 0: sensitivity over standard deviation of the noise.
        delta: Float in (0, 1).

    Returns:
        A float of at least 0.

    Raises:
        ValueError: when an argument is out of range.

    Example:
        >>> from keras_dp import auditing
        >>> f"{auditing.gaussian_epsilon(1.0, 1e-5):.4f}"
        '4.3772'

    References:
        Balle and Wang 2018, Improving the Gaussian Mechanism for Differential Privacy.
    """
    validation.non_negative_float("mu", mu)
    validation.open_probability("delta", delta)

    def excess(epsilon: float) -> float:
        return _gaussian_log_delta(mu, epsilon) - math.log(delta)

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, _beyond(excess, 1.0)))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return the `mu` of the Gaussian mechanism that has this epsilon at `delta`.

    Args:
        epsilon: Float of at least 0.
        delta: Float in (0, 1).
    """

    def excess(mu: float) -> float:
        return math.log(delta) - _gaussian_log_delta(mu, epsilon)

    return float(brentq(excess, 1e-9, _beyond(excess, 1.0)))


def _gaussian_log_delta(mu: float, epsilon: float) -> float:
    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    return first + math.log(max(-math.expm1(min(second - first, 0.0)), 1e-300))


def _beyond(decreasing: Any, start: float) -> float:
    end = start
    while decreasing(end) > 0:
        end *= 2
    return end


@functools.lru_cache(maxsize=128)
def _subsampled(event: PoissonSampledDpEvent, updates: int) -> Profile:
    """Return the trade-off function of a composition of sampled Gaussian mechanisms."""
    noise = event.event.noise_multiplier
    range_of_one = 8 / noise + 0.5 / noise**2
    step = max(_GRID_STEP, range_of_one / _GRID_POINTS_OF_ONE_UPDATE)
    accountant = PLDAccountant(value_discretization_interval=step)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        accountant.compose(event, updates)
        largest = min(accountant.get_epsilon(_LEAST_DELTA), 700.0)
        epsilons = np.linspace(0.0, max(largest, step), _PROFILE_POINTS)
        deltas = np.asarray(accountant.get_delta(epsilons), np.float64)
    return _profile(epsilons, np.where(np.isnan(deltas), 1.0, deltas))


def _profile(epsilons: Sequence[float] | Array, deltas: Sequence[float] | Array) -> Profile:
    clipped = np.clip(np.asarray(deltas, np.float64), 0.0, 1.0)
    return Profile(tuple(map(float, epsilons)), tuple(map(float, clipped)))
