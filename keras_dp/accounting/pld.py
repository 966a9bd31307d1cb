"""Privacy loss distributions, always on the safe side."""

import math

import numpy as np
from dp_accounting import DpEvent
from dp_accounting.pld import PLDAccountant

from keras_dp.accounting import grid, rdp

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
    try:
        parts = [_part(event, count, rough) for event, count in composition]
    except ValueError:  # no Renyi analysis, so no bound and no estimate of the grid
        return _on_grid(composition, kept, grid.FINEST_STEP)
    bound = rdp.together([part.curve for part in parts]).epsilon(delta)
    step = grid.step(parts, rough=rough)
    if step == math.inf or kept < delta / 2:
        return bound
    return min(bound, _on_grid(composition, kept, step))


def _on_grid(composition: rdp.Composition, delta: float, step: float) -> float:
    accountant = PLDAccountant(value_discretization_interval=step)
    with np.errstate(over="ignore", divide="ignore"):  # exp(-loss) is 0: epsilon is infinite
        for event, count in composition:
            accountant.compose(event, count)
        return float(accountant.get_epsilon(delta))


def _part(event: DpEvent, count: int, rough: bool) -> grid.Part:
    curve = rdp.of_equal(event, count, _ROUGH_ORDERS if rough else None)
    return grid.Part(event, count, curve)
