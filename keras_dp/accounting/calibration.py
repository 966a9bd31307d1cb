"""The inverse questions: how much noise, how many updates. The answers are on the safe side."""

import math
from collections.abc import Sequence
from dataclasses import replace

from keras_dp import validation
from keras_dp.accounting import search
from keras_dp.accounting.accountant import Measure, measure, planned
from keras_dp.accounting.best_of import BestOf
from keras_dp.accounting.ledger import Release
from keras_dp.errors import PrivacyBudgetExceeded
from keras_dp.plan import Budget, PrivacyPlan

MOST_UPDATES = 2**40
"""`updates` answers at most this: more than any training makes."""

_LEAST_NOISE = 1e-3
_MOST_NOISE = 1e6
_DIGITS = 5


def noise_multiplier(
    *,
    epsilon: float,
    delta: float,
    batch_size: int,
    dataset_size: int,
    updates: int,
    sampling: str = "poisson",
    accountant: str = "pld",
    rdp_orders: Sequence[float] | None = None,
    largest_batch: int | None = None,
    best_of: BestOf | None = None,
) -> float:
    """Return the smallest noise multiplier that keeps `updates` updates within epsilon.

    It is the smallest one with five significant digits (and at least 0.001): its epsilon was
    computed and is at most `epsilon`, without tolerance.

    Args:
        epsilon: Float above 0.
        delta: Float in (0, 1).
        batch_size: Expected number of examples in an update.
        dataset_size: Number of examples that the draw is made from.
        updates: Number of updates.
        sampling: As in `accounting.epsilon`.
        accountant: As in `accounting.epsilon`.
        rdp_orders: As in `accounting.epsilon`.
        largest_batch: As in `accounting.epsilon`.
        best_of: As in `accounting.epsilon`: the whole search stays within epsilon.

    Raises:
        ValueError: when an argument is out of range, or no noise up to 1e6 is enough.

    Privacy:
        (epsilon, delta)-differential privacy under adding or removing one example.

    Example:
        >>> from keras_dp import accounting
        >>> accounting.noise_multiplier(epsilon=3.0, delta=1e-5, batch_size=2048,
        ...                             dataset_size=60000, updates=1160)
        1.8008
    """
    how = measure(delta, accountant, rdp_orders)
    target = validation.positive_float("epsilon", epsilon)
    plan = planned(sampling, batch_size, dataset_size, 1.0, largest_batch)
    release = Release(plan, validation.positive_int("updates", updates), "planned", best_of)
    return _smallest_noise(how, target, release, ())


def updates(
    *,
    epsilon: float,
    delta: float,
    noise_multiplier: float,
    batch_size: int,
    dataset_size: int,
    sampling: str = "poisson",
    accountant: str = "pld",
    rdp_orders: Sequence[float] | None = None,
    largest_batch: int | None = None,
    best_of: BestOf | None = None,
) -> int:
    """Return the largest number of updates that stays within epsilon.

    Both neighbours were computed: the answer fits, one more does not.

    Args:
        epsilon: Float above 0.
        delta: Float in (0, 1).
        noise_multiplier: Standard deviation of the noise on the clipped sum, in clip norms.
        batch_size: Expected number of examples in an update.
        dataset_size: Number of examples that the draw is made from.
        sampling: As in `accounting.epsilon`.
        accountant: As in `accounting.epsilon`.
        rdp_orders: As in `accounting.epsilon`.
        largest_batch: As in `accounting.epsilon`.
        best_of: As in `accounting.epsilon`: the whole search stays within epsilon.

    Returns:
        An integer, 0 when not even one update fits, and never more than 2**40.

    Raises:
        ValueError: when an argument is out of range.
    """
    how = measure(delta, accountant, rdp_orders)
    target = validation.positive_float("epsilon", epsilon)
    plan = planned(sampling, batch_size, dataset_size, noise_multiplier, largest_batch)
    return _most_updates(how, target, Release(plan, MOST_UPDATES, "planned", best_of), ())


def calibrate(
    budget: Budget,
    plan: PrivacyPlan,
    updates: int,
    prior: tuple[Release, ...] = (),
    best_of: BestOf | None = None,
) -> PrivacyPlan:
    """Return `plan` with the smallest noise that keeps `updates` more updates within budget.

    Args:
        budget: The promise.
        plan: The plan but for its noise multiplier, which is not looked at.
        updates: How many updates are to follow; in a search, in each run.
        prior: What was released already, `Ledger.releases`.
        best_of: For a search, how many runs there are; None for one training.

    Raises:
        PrivacyBudgetExceeded: when what was released leaves too little of the budget.
        ValueError: when no noise up to 1e6 is enough although nothing was released.
    """
    how = measure(budget.delta, budget.accountant)
    release = Release(plan, validation.positive_int("updates", updates), "planned", best_of)
    return replace(plan, noise_multiplier=_smallest_noise(how, budget.epsilon, release, prior))


def updates_within(
    budget: Budget,
    plan: PrivacyPlan,
    at_most: int,
    prior: tuple[Release, ...] = (),
    made: int = 0,
) -> int:
    """Return how many more updates under `plan`, at most `at_most`, stay within budget.

    Args:
        budget: The promise.
        plan: The plan of the updates to come.
        at_most: The number asked for; when all of them fit this costs one evaluation.
        prior: What was released already, `Ledger.releases`.
        made: Updates under `plan` that those to come continue, and that `prior` leaves out: an
            epoch that was begun is paid for.
    """
    how = measure(budget.delta, budget.accountant)
    most = Release(plan, validation.positive_int("at_most", at_most), "planned")
    return _most_updates(how, budget.epsilon, most, prior, made)


def _smallest_noise(
    how: Measure, target: float, planned: Release, prior: tuple[Release, ...]
) -> float:
    def gap_at(noise: float, rough: bool = False) -> float:
        release = replace(planned, plan=replace(planned.plan, noise_multiplier=noise))
        return search.gap(how.epsilon((*prior, release), rough=rough), target)

    if gap_at(_MOST_NOISE) > 0:
        raise _unreachable(how, target, planned, prior)
    if gap_at(_LEAST_NOISE) <= 0:
        return _LEAST_NOISE
    rough = gap_at(_LEAST_NOISE, True) > 0 >= gap_at(_MOST_NOISE, True)
    root, slope = search.estimate(lambda noise: gap_at(noise, rough), _LEAST_NOISE, _MOST_NOISE)
    exponent = math.floor(math.log10(root)) + 1 - _DIGITS
    steps = search.edge(
        lambda steps: gap_at(_decimal(steps, exponent)),
        start=math.ceil(root / 10.0**exponent),
        slope=slope,
        upward=True,
    )
    return _decimal(steps, exponent)


def _most_updates(
    how: Measure,
    target: float,
    most: Release,
    prior: tuple[Release, ...],
    made: int = 0,
) -> int:
    at_most = most.updates

    def gap_at(count: float, rough: bool = False) -> float:
        release = replace(most, updates=made + max(1, round(count)))
        return search.gap(how.epsilon((*prior, release), rough=rough), target)

    if gap_at(at_most) <= 0:
        return at_most
    if gap_at(1) > 0:
        return 0
    rough = gap_at(1, True) <= 0 < gap_at(at_most, True)
    root, slope = search.estimate(lambda count: gap_at(count, rough), 1, at_most)
    return search.edge(
        gap_at, start=max(1, int(root)), slope=slope, upward=False, low=1, high=at_most
    )


def _decimal(steps: int, exponent: int) -> float:
    """Return the float nearest to the decimal number, so that it prints with few digits."""
    return float(f"{steps}e{exponent}")


def _unreachable(
    how: Measure, target: float, planned: Release, prior: tuple[Release, ...]
) -> PrivacyBudgetExceeded | ValueError:
    where = f"epsilon {target:g} at delta {how.delta:g} (accountant {how.accountant!r})"
    what = f"{planned.updates} updates"
    if planned.best_of is not None:
        what = f"{planned.best_of.mean_runs:g} expected runs of {what}"
    if prior:
        return PrivacyBudgetExceeded(
            f"{what} more do not fit into {where} with any noise up to {_MOST_NOISE:g}: "
            f"epsilon {how.epsilon(prior):.4g} was spent already, in "
            f"{sum(release.updates for release in prior)} updates. Promise a larger budget, or "
            "start again from fresh weights."
        )
    return ValueError(
        f"`epsilon` must be large enough for some noise multiplier up to {_MOST_NOISE:g}. "
        f"Received: {where} for {what}. Use a larger epsilon, fewer updates, a smaller "
        "batch, or accountant='pld'."
    )
