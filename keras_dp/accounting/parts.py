"""What is known of equal events before their distribution is computed."""

import math

import numpy as np
from dp_accounting import (
    DpEvent,
    GaussianDpEvent,
    PoissonSampledDpEvent,
    TruncatedSubsampledGaussianDpEvent,
)
from dp_accounting.dp_event import MixtureOfGaussiansDpEvent, RepeatAndSelectDpEvent

from keras_dp.accounting import balls_in_bins, grid, rdp
from keras_dp.accounting.balls_in_bins import BallsInBinsDpEvent

_ROUGH_ORDERS = (*range(2, 64), 128, 256, 512, 1024)


def part(event: DpEvent, count: int, *, rough: bool) -> grid.Part:
    """Return an estimate and an upper bound of `count` equal events.

    Args:
        event: One of them.
        count: How many.
        rough: Whether few Renyi orders will do.
    """
    orders = _ROUGH_ORDERS if rough else None
    if isinstance(event, TruncatedSubsampledGaussianDpEvent):
        return _truncated(event, count, orders)
    if isinstance(event, BallsInBinsDpEvent):
        return _balls_in_bins(event, count, rough)
    if isinstance(event, MixtureOfGaussiansDpEvent):
        return _mixture(event, count, orders)
    curve = rdp.of_equal(event, count, orders)
    # The best of a random number of runs has no loss distribution: no grid is fine enough.
    width = math.inf if isinstance(event, RepeatAndSelectDpEvent) else 0.0
    return grid.Part(event, count, curve, bound=curve, width=width)


def _truncated(
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


def _balls_in_bins(event: BallsInBinsDpEvent, count: int, rough: bool) -> grid.Part:
    """Estimate by the distribution of an epoch, and bound by a known place in every epoch."""
    known = GaussianDpEvent(event.noise_multiplier)
    bound = rdp.of_equal(known, count, _ROUGH_ORDERS if rough else None)
    if event.noise_multiplier < balls_in_bins.LEAST_NOISE:
        return grid.Part(event, count, bound, bound, width=math.inf)
    one = balls_in_bins.ratio(event, grid.finest_step(rough=rough), rough=rough)
    curve = rdp.Curve(bound.orders, count * one.divergences(bound.orders))
    return grid.Part(event, count, curve, bound, float(np.ptp(one.logs)), one.step)


def _mixture(
    event: MixtureOfGaussiansDpEvent, count: int, orders: tuple[float, ...] | None
) -> grid.Part:
    """Estimate by the square of the group's size, and bound by no sample at all."""
    size = max(event.sensitivities)
    probability = float(np.dot(event.sensitivities, event.sampling_probs)) / size
    alone = PoissonSampledDpEvent(probability, GaussianDpEvent(event.standard_deviation))
    one = rdp.of_equal(alone, count, orders)
    curve = rdp.Curve(one.orders, size**2 * one.divergences)
    bound = rdp.of_equal(GaussianDpEvent(event.standard_deviation / size), count, orders)
    width = grid.sampled_range(1.0, event.standard_deviation / size)
    return grid.Part(event, count, curve, bound, width)
