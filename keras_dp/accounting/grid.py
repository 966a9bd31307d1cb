"""How fine the grid of a privacy loss distribution may be, so that it stays short."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent

from keras_dp.accounting.rdp import Curve

FINEST_STEP = 1e-4
_COARSEST_STEP = 1e-2
_MOST_POINTS_OF_ONE_UPDATE = 2**16
_MOST_POINTS = 2**19
_ROUGHER = 10

# With up to 1000 points, dp-accounting raises their number to the power of updates as an integer.
_MANY_UPDATES = 10**5
_ENOUGH_POINTS = 1100

# What dp-accounting cuts off: mass exp(-50) of the noise, 1e-15 of a composition.
_TAIL_STDDEVS = 9.8
_TAIL_MASS = 5e-16


@dataclass(frozen=True)
class Part:
    """Equal events of a composition, and the Renyi curve of all of them together.

    Attributes:
        event: One of the events.
        count: How many.
        curve: Their curve, or an estimate of it.
        bound: An upper bound of it.
        width: Width of the losses of one event, where it is not a matter of arithmetic.
        own_step: The step of the grid on which one event's losses lie already, if they do.
    """

    event: DpEvent
    count: int
    curve: Curve
    bound: Curve
    width: float = 0.0
    own_step: float = 0.0

    @property
    def one(self) -> float:
        """Width of the losses of one event; of all, for Gaussians, which compose by their noise."""
        if isinstance(self.event, GaussianDpEvent):
            return 2 * _largest_loss(self.event.noise_multiplier / math.sqrt(self.count))
        if isinstance(self.event, PoissonSampledDpEvent):
            return sampled_range(self.event.sampling_probability, self.event.event.noise_multiplier)
        return self.width

    def all(self, step: float) -> float:
        """Estimate the width after composition, which dp-accounting cuts by 20 Chernoff bounds.

        Their exponents are `1, .., 20` over the width of one event. Rounding to the grid adds up
        to `step**2 / 4` to the variance of a loss.
        """
        if isinstance(self.event, GaussianDpEvent):
            return self.one
        exponents = np.array([1, 2, 4, 8, 20]) / (self.one + 2 * step)
        known = np.minimum(1 + exponents, self.curve.orders.max())
        # A divergence grows with its order, so the next one stands in for one that is left out.
        smallest = np.minimum.accumulate(self.curve.divergences[::-1])[::-1]
        divergences = smallest[np.searchsorted(self.curve.orders, known)]
        growing = (1 + exponents) * (divergences / known + self.count * step**2 / 8)
        return float(self.one + 2 * np.min(growing + math.log(1 / _TAIL_MASS) / exponents))


def finest_step(*, rough: bool) -> float:
    """Return the step that short grids have."""
    return FINEST_STEP * (_ROUGHER if rough else 1)


def step(parts: Sequence[Part], *, rough: bool) -> float:
    """Return the finest step, doubled until the grids are short enough; infinity if none is.

    A power of two times the finest: it seldom changes, and only ever grows with what is released.
    """
    scale = _ROUGHER if rough else 1
    coarsest = min(_COARSEST_STEP, *map(_coarsest, parts), math.inf)
    finest = finest_step(rough=rough)
    # Nothing is lost on a grid that all losses lie on. Steps are powers of two times the finest.
    step = min(coarsest, *(part.own_step or finest for part in parts))
    one = max(part.one for part in parts)
    if one == math.inf:
        return math.inf
    while step <= coarsest:
        composed = sum(part.all(step) for part in parts)
        short = one <= _MOST_POINTS_OF_ONE_UPDATE * step / scale
        if short and composed <= _MOST_POINTS * step / scale:
            return step
        step *= 2
    return math.inf


def _coarsest(part: Part) -> float:
    if part.count <= _MANY_UPDATES or isinstance(part.event, GaussianDpEvent):
        return math.inf
    return part.one / _ENOUGH_POINTS


def sampled_range(probability: float, noise_multiplier: float) -> float:
    """Return the width of the losses of a Gaussian mechanism on a Poisson sample."""
    loss = _largest_loss(noise_multiplier)
    if probability == 1:
        return 2 * loss
    ends = np.logaddexp(math.log1p(-probability), math.log(probability) + np.array([-loss, loss]))
    return float(ends[1] - ends[0])


def _largest_loss(noise_multiplier: float) -> float:
    return _TAIL_STDDEVS / noise_multiplier + 0.5 / noise_multiplier**2
