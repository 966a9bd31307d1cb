"""Privacy loss distributions, always on the safe side."""

import functools
import math

import numpy as np
from dp_accounting import DpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.privacy_accountant import PrivacyAccountant
from numpy.typing import NDArray

from keras_dp.accounting import balls_in_bins, grid, rdp
from keras_dp.accounting.balls_in_bins import BallsInBinsDpEvent
from keras_dp.accounting.parts import part
from keras_dp.accounting.rdp import Composition

_LOST_TO_ROUNDING = 1e-15
_EPSILONS = np.concatenate([np.arange(0, 40, 0.01), np.arange(40, 201, 0.5)])


def epsilon(composition: Composition, delta: float, *, rough: bool = False) -> float:
    """Return the epsilon of `composition` at `delta` by its privacy loss distribution.

    Every choice here only ever raises the result. The distribution is rounded pessimistically to
    a grid of step 1e-4; where that grid would be too long (very little noise), to a coarser one.
    Delta is lowered by what the Fourier transforms may lose to rounding. The Renyi bound holds as
    well, so the smaller of the two is returned. It alone is left where a grid cannot do: for an
    epsilon in the hundreds, more updates than 5e14 times delta, or a search.

    Args:
        composition: Events and how often each happened.
        delta: Probability in (0, 1).
        rough: Whether to use a grid that is 10 times coarser: faster, a little larger.
    """
    kept = delta - _lost(composition)
    found = [part(event, count, rough=rough) for event, count in composition]
    bound = rdp.together([each.bound for each in found]).epsilon(delta)
    step = grid.step(found, rough=rough)
    if step == math.inf or kept < delta / 2:
        return bound
    with np.errstate(over="ignore", divide="ignore"):  # exp(-loss) is 0: epsilon is infinite
        return min(bound, float(_composed(composition, step, rough).get_epsilon(kept)))


@functools.lru_cache(maxsize=32)
def curve(composition: Composition) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return epsilons from 0 upwards, and the delta of `composition` at each.

    Upper bounds, as those of `epsilon`; by the Renyi bound where no grid can do.
    """
    found = [part(event, count, rough=False) for event, count in composition]
    step = grid.step(found, rough=False)
    if step == math.inf:
        return _EPSILONS, rdp.together([each.bound for each in found]).deltas(_EPSILONS)
    with np.errstate(over="ignore", divide="ignore"):
        values = _composed(composition, step, rough=False).get_delta(list(_EPSILONS))
    return _EPSILONS, np.minimum(1.0, np.asarray(values, np.float64) + _lost(composition))


def _lost(composition: Composition) -> float:
    return _LOST_TO_ROUNDING * (100 + sum(count for _, count in composition))


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
            finest = grid.finest_step(rough=self._rough)
            epoch = balls_in_bins.loss_distribution(event, self._step, finest, rough=self._rough)
            self._pld = self._pld.compose(epoch.self_compose(count))
        return None


def _composed(composition: Composition, step: float, rough: bool) -> _Accountant:
    accountant = _Accountant(step, rough)
    for event, count in composition:
        accountant.compose(event, count)
    return accountant
