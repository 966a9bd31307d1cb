"""Privacy loss distributions on a grid that stays small, always on the safe side."""

import math

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

from keras_dp.accounting import rdp

_FINEST_STEP = 1e-4
_COARSEST_STEP = 1e-2
_MOST_POINTS_OF_ONE_UPDATE = 2**16
_MOST_POINTS = 2**19
_ROUGHER = 10
_MANY_UPDATES = 10**5
_FEW_POINTS = 1100  # below 1000, dp-accounting raises the number of points to the power of updates
_ROUGH_ORDERS = (*range(2, 64), 128, 256, 512, 1024)
_LOST_TO_ROUNDING = 1e-15
_TAIL_STDDEVS = 9.8
_TAIL_MASS = 5e-16


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
    curve = _curve(composition, rough)
    bound = math.inf if curve is None else curve.epsilon(delta)
    step = _FINEST_STEP if curve is None else _step(composition, curve, rough)
    kept = delta - _LOST_TO_ROUNDING * (100 + sum(count for _, count in composition))
    if curve is not None and (step == math.inf or kept < delta / 2):
        return bound
    return min(bound, _on_grid(composition, kept, step))


def _on_grid(composition: rdp.Composition, delta: float, step: float) -> float:
    accountant = PLDAccountant(value_discretization_interval=step)
    with np.errstate(over="ignore", divide="ignore"):  # exp(-loss) is 0: epsilon is infinite
        for event, count in composition:
            accountant.compose(event, count)
        return float(accountant.get_epsilon(delta))


def _curve(composition: rdp.Composition, rough: bool) -> rdp.Curve | None:
    try:
        return rdp.curve(composition, _ROUGH_ORDERS if rough else None)
    except ValueError:
        return None


def _step(composition: rdp.Composition, curve: rdp.Curve, rough: bool) -> float:
    """Return the finest step, doubled until both grids are short enough; infinity if none is."""
    scale = _ROUGHER if rough else 1
    ranges = [_range_of_one(event, count) for event, count in composition]
    happened = sum(count for _, count in composition)
    coarsest = _COARSEST_STEP
    step = _FINEST_STEP * scale
    if happened > _MANY_UPDATES:
        coarsest = min(coarsest, min(ranges) / _FEW_POINTS)
        step = min(step, coarsest)
    while step <= coarsest:
        one = max(ranges) / step
        if one * scale <= _MOST_POINTS_OF_ONE_UPDATE:
            composed = _range_of_all(step, ranges, happened, curve) / step
            if composed * scale <= _MOST_POINTS:
                return step
        step *= 2
    return math.inf


def _range_of_one(event: DpEvent, count: int) -> float:
    """Return the width of the losses that dp-accounting puts on the grid before it composes."""
    if isinstance(event, GaussianDpEvent):  # composed exactly, by its noise
        return 2 * _largest_loss(event.noise_multiplier / math.sqrt(count))
    if isinstance(event, PoissonSampledDpEvent) and event.sampling_probability < 1:
        probability, loss = event.sampling_probability, _largest_loss(event.event.noise_multiplier)
        absent, present = math.log1p(-probability), math.log(probability)
        ends = np.logaddexp(absent, present + np.array([-loss, loss]))
        return float(ends[1] - ends[0])
    if isinstance(event, PoissonSampledDpEvent):
        return 2 * _largest_loss(event.event.noise_multiplier)
    return 0.0


def _largest_loss(noise_multiplier: float) -> float:
    return _TAIL_STDDEVS / noise_multiplier + 0.5 / noise_multiplier**2


def _range_of_all(step: float, ranges: list[float], happened: int, curve: rdp.Curve) -> float:
    """Estimate the width after composition, which dp-accounting cuts by 20 Chernoff bounds.

    Their exponents are `1, .., 20` over the width of one update; rounding to the grid adds up to
    `step**2 / 4` to the variance of a loss.
    """
    least, most = 1 / (min(ranges) + 2 * step), 20 / (max(ranges) + 2 * step)
    exponents = np.geomspace(least, max(least, most), 5)
    known = np.minimum(1 + exponents, curve.orders.max())
    divergences = curve.divergences[np.searchsorted(curve.orders, known)] * (1 + exponents) / known
    spread = happened * (1 + exponents) * step**2 / 8
    tail = np.min(divergences + spread + math.log(1 / _TAIL_MASS) / exponents)
    return float(sum(ranges) + 2 * tail)
