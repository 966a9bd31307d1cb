"""Privacy loss distributions, always on the safe side."""

import math

import numpy as np
from dp_accounting import (
    DpEvent,
    GaussianDpEvent,
    PoissonSampledDpEvent,
    TruncatedSubsampledGaussianDpEvent,
)
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.privacy_accountant import PrivacyAccountant

from keras_dp.accounting import balls_in_bins, grid, rdp
from keras_dp.accounting.balls_in_bins import BallsInBinsDpEvent

_ROUGH_ORDERS = (*range(2, 64), 128, 256, 512, 1024)
_LOST_TO_ROUNDING = 1e-15


def epsilon(composition: rdp.Composition, delta: float, *, rough: bool = False) -> float:
    """Return the epsilon of `composition` at `delta` by its privacy loss distribution.

    Every choice here only ever raises the result. The distribution is rounded pessimistically to
    a grid of step 1e-4; where that grid would be too long (very little noise), to a coarser one.
    Delta is lowered by what the Fourier transforms may lose to rounding. The Renyi bound holds as
    well, so the smaller of the two is returned. It alone is left where a grid cannot do: for an
    epsilon in the hundreds, or more updates than 5e14 times delta.

    Args:
        composition: Events and how often each happened.
        delta: Probability in (0, 1).
        rough: Whether to use a grid that is 10 times coarser: faster, a little larger.
    """
    kept = delta - _LOST_TO_ROUNDING * (100 + sum(count for _, count in composition))
    parts = [_part(event, count, rough) for event, count in composition]
    bound = rdp.together([part.bound for part in parts]).epsilon(delta)
    step = grid.step(parts, rough=rough)
    if step == math.inf or kept < delta / 2:
        return bound
    return min(bound, _on_grid(composition, kept, step, rough))


class _Accountant(PLDAccountant):
    """dp-accounting's accountant, which learns balls-in-bins sampling.

    Args:
        step: Step of the grid.
        rough: Whether a coarser distribution of an epoch will do.
    """

    def __init__(self, step: float, rough: bool) -> None:
        super().__init__(value_discretization_interval=step)
        self._pld: PrivacyLossDistribution
        self._step, self._rough = step, rough

    def _maybe_compose(
        self, event: DpEvent, count: int, do_compose: bool
    ) -> PrivacyAccountant.CompositionErrorDetails | None:
        if not isinstance(event, BallsInBinsDpEvent):
            return super()._maybe_compose(event, count, do_compose)
        if do_compose:
            epoch = balls_in_bins.loss_distribution(event, self._step, rough=self._rough)
            self._pld = self._pld.compose(epoch.self_compose(count))
        return None


def _on_grid(composition: rdp.Composition, delta: float, step: float, rough: bool) -> float:
    accountant = _Accountant(step, rough)
    with np.errstate(over="ignore", divide="ignore"):  # exp(-loss) is 0: epsilon is infinite
        for event, count in composition:
            accountant.compose(event, count)
        return float(accountant.get_epsilon(delta))


def _part(event: DpEvent, count: int, rough: bool) -> grid.Part:
    orders = _ROUGH_ORDERS if rough else None
    if isinstance(event, TruncatedSubsampledGaussianDpEvent):
        return _truncated_part(event, count, orders)
    if isinstance(event, BallsInBinsDpEvent):
        return _balls_in_bins_part(event, count, rough)
    curve = rdp.of_equal(event, count, orders)
    return grid.Part(event, count, curve, bound=curve)


def _truncated_part(
    event: TruncatedSubsampledGaussianDpEvent, count: int, orders: tuple[float, ...] | None
) -> grid.Part:
    """Estimate by the sample that is not truncated, and bound by no sample at all.

    Where a sample is truncated, an example may take the place of another and move the sum twice as
    far.
    """
    probability, noise_multiplier = event.sampling_probability, event.noise_multiplier
    untruncated = PoissonSampledDpEvent(probability, GaussianDpEvent(noise_multiplier))
    curve = rdp.of_equal(untruncated, count, orders)
    bound = rdp.of_equal(GaussianDpEvent(noise_multiplier / 2), count, orders)
    width = 2 * grid.sampled_range(probability, noise_multiplier / 2)
    return grid.Part(event, count, curve, bound, width)


def _balls_in_bins_part(event: BallsInBinsDpEvent, count: int, rough: bool) -> grid.Part:
    """Estimate by the distribution of an epoch, and bound by a known place in every epoch."""
    known = GaussianDpEvent(event.noise_multiplier)
    bound = rdp.of_equal(known, count, _ROUGH_ORDERS if rough else None)
    if event.noise_multiplier < balls_in_bins.LEAST_NOISE:
        return grid.Part(event, count, bound, bound, width=math.inf)
    one = balls_in_bins.ratio(event, grid.finest_step(rough=rough), rough=rough)
    curve = rdp.Curve(bound.orders, count * one.divergences(bound.orders))
    return grid.Part(event, count, curve, bound, width=float(np.ptp(one.logs)))
