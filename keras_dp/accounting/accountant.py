"""Forward accounting: the epsilon of what was released, or of what is planned."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from keras_dp import validation
from keras_dp.accounting import events, pld, rdp
from keras_dp.accounting.best_of import BestOf
from keras_dp.accounting.composition import composition_of
from keras_dp.accounting.ledger import Release
from keras_dp.plan import PrivacyPlan

ACCOUNTANTS = ("pld", "rdp", "rdp_classic")
"""The names of the known accountants."""

_NO_NOISE = 1e-6


@dataclass(frozen=True)
class Measure:
    """How epsilon is measured: at which delta and by which accountant.

    Args:
        delta: Float in (0, 1).
        accountant: `"pld"`, `"rdp"` or `"rdp_classic"`.
        rdp_orders: Orders above 1 of the Renyi accountants; None for dp-accounting's own.

    Raises:
        ValueError: when a value is out of range, or orders are given to `"pld"`.
    """

    delta: float
    accountant: str = "pld"
    rdp_orders: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse bad values at once, and keep the orders as a tuple of floats."""
        validation.open_probability("delta", self.delta)
        validation.one_of("accountant", self.accountant, ACCOUNTANTS)
        if self.rdp_orders is not None:
            object.__setattr__(self, "rdp_orders", _orders(self.rdp_orders, self.accountant))

    def epsilon(self, releases: Iterable[Release], *, rough: bool = False) -> float:
        """Return the epsilon of `releases` together: 0.0 for none, infinity without noise.

        Args:
            releases: What was released; equal events are counted together.
            rough: Whether a faster and slightly larger value will do (`"pld"` only).
        """
        releases = tuple(releases)
        if not releases:
            return 0.0
        composition = composition_of(releases)
        if any(release.plan.noise_multiplier < _NO_NOISE for release in releases):
            return math.inf
        return _epsilon(composition, self, rough)


def epsilon(
    *,
    noise_multiplier: float,
    batch_size: int,
    dataset_size: int,
    updates: int,
    delta: float,
    sampling: str = "poisson",
    accountant: str = "pld",
    rdp_orders: Sequence[float] | None = None,
    largest_batch: int | None = None,
    best_of: BestOf | None = None,
) -> float:
    """Return the epsilon that `updates` equal updates spend, or a search among such runs.

    Args:
        noise_multiplier: Standard deviation of the noise on the clipped sum, in clip norms. At 0
            the result is infinity.
        batch_size: Expected number of examples in an update.
        dataset_size: Number of examples that the draw is made from.
        updates: Number of updates; in a search, of each run.
        delta: Float in (0, 1).
        sampling: `"poisson"`, `"truncated_poisson"`, `"balls_in_bins"`, `"full_batch"`,
            `"shuffle"`, or `"given"` for batches that the caller chose, which gain nothing from
            sampling.
        accountant: `"pld"` (tight, the default), `"rdp"`, or `"rdp_classic"`, the older conversion
            that reproduces older papers.
        rdp_orders: Orders above 1 for the Renyi accountants; None for dp-accounting's own.
        largest_batch: Where `"truncated_poisson"` truncates; None for six standard deviations
            above the mean.
        best_of: `BestOf(mean_runs)` when this is trained a random number of times, with other
            learning rates, clip norms or architectures, and the best one is published; None
            (default) for one training.

    Returns:
        A float of at least 0: an upper bound of the privacy loss. That of a search is a Renyi
        bound, also with `accountant="pld"`, since there is none by distributions.

    Raises:
        ValueError: when an argument is out of range.

    Privacy:
        (epsilon, delta)-differential privacy under adding or removing one example; for
        `"shuffle"`, under replacing one with an empty one.

    Example:
        >>> from keras_dp import accounting
        >>> spent = accounting.epsilon(noise_multiplier=2.15, batch_size=2048, dataset_size=60000,
        ...                            updates=1160, delta=1e-5)
        >>> f"{spent:.3f}"
        '2.376'

    References:
        Dong, Roth, Su, 2019 (https://arxiv.org/abs/1905.02383); Koskela, Jalko, Honkela, 2020
        (https://arxiv.org/abs/1906.03049); Doroshenko et al., 2022
        (https://arxiv.org/abs/2207.04380).
    """
    plan = planned(sampling, batch_size, dataset_size, noise_multiplier, largest_batch)
    release = Release(plan, validation.positive_int("updates", updates), "planned", best_of)
    return spent((release,), delta, accountant, rdp_orders)


def spent(
    releases: Iterable[Release],
    delta: float,
    accountant: str = "pld",
    rdp_orders: Sequence[float] | None = None,
) -> float:
    """Return the epsilon of a ledger's releases, however they are mixed.

    Args:
        releases: `Ledger.releases`, or planned ones.
        delta: Float in (0, 1).
        accountant: `"pld"`, `"rdp"` or `"rdp_classic"`.
        rdp_orders: Orders above 1 for the Renyi accountants.

    Returns:
        0.0 when nothing was released, infinity when something was released without noise.
    """
    return measure(delta, accountant, rdp_orders).epsilon(releases)


def in_effect(accountant: str, releases: Iterable[Release]) -> str:
    """Return the accountant that measures these releases: a search has no `"pld"`."""
    searched = any(release.best_of is not None for release in releases)
    return "rdp" if searched and accountant == "pld" else accountant


def measure(delta: float, accountant: str, rdp_orders: Sequence[float] | None = None) -> Measure:
    """Return the `Measure` of these arguments, checked."""
    return Measure(delta, accountant, None if rdp_orders is None else tuple(rdp_orders))


def planned(
    sampling: str,
    batch_size: int,
    dataset_size: int,
    noise_multiplier: float,
    largest_batch: int | None = None,
) -> PrivacyPlan:
    """Return a checked plan with clip norm 1: the epsilon does not depend on the clip norm."""
    plan = PrivacyPlan(
        sampling=sampling,
        batch_size=batch_size,
        dataset_size=dataset_size,
        clip_norm=1.0,
        noise_multiplier=noise_multiplier,
        largest_batch=largest_batch,
    )
    events.check(plan)
    plan = events.completed(plan)
    events.event(plan)
    return plan


@functools.lru_cache(maxsize=512)
def _epsilon(composition: rdp.Composition, how: Measure, rough: bool) -> float:
    value = _BY_NAME[how.accountant](composition, how, rough)
    return math.inf if math.isnan(value) else max(0.0, value)


def _pld(composition: rdp.Composition, how: Measure, rough: bool) -> float:
    return pld.epsilon(composition, how.delta, rough=rough)


def _rdp(composition: rdp.Composition, how: Measure, rough: bool) -> float:
    return rdp.curve(composition, how.rdp_orders).epsilon(how.delta)


def _rdp_classic(composition: rdp.Composition, how: Measure, rough: bool) -> float:
    return rdp.curve(composition, how.rdp_orders).classic_epsilon(how.delta)


_BY_NAME: dict[str, Callable[[rdp.Composition, Measure, bool], float]] = {
    "pld": _pld,
    "rdp": _rdp,
    "rdp_classic": _rdp_classic,
}


def _orders(orders: tuple[float, ...], accountant: str) -> tuple[float, ...]:
    if accountant == "pld":
        raise ValueError(
            "`rdp_orders` must be left out when accountant='pld', which has no orders. "
            f"Received: {orders!r}. Leave it out, or choose accountant='rdp' or 'rdp_classic'."
        )
    checked = tuple(validation.positive_float("rdp_orders", order) for order in orders)
    if not checked or min(checked) <= 1:
        raise ValueError(
            f"`rdp_orders` must be numbers above 1, at least one. Received: {orders!r}."
        )
    return checked
