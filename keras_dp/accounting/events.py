"""What one update releases: a plan becomes the event that the accountant composes."""

from collections.abc import Callable, Iterable, KeysView
from dataclasses import dataclass, replace

from dp_accounting import (
    DpEvent,
    GaussianDpEvent,
    PoissonSampledDpEvent,
    TruncatedSubsampledGaussianDpEvent,
)

from keras_dp import validation
from keras_dp.accounting.balls_in_bins import BallsInBinsDpEvent
from keras_dp.plan import NOISES, PrivacyPlan, default_largest_batch, updates_per_epoch

_MOST_NOISE = 1e9

EventBuilder = Callable[[PrivacyPlan], DpEvent]


ADD_OR_REMOVE_ONE = "add_or_remove_one"
"""Two data sets are neighbours when one has one example more than the other."""

REPLACE_SPECIAL = "replace_special"
"""Two data sets are neighbours when one example of the first is an empty one in the second."""


@dataclass(frozen=True)
class _Sampling:
    build: EventBuilder
    wording: str
    relation: str
    once_an_epoch: bool


_REGISTRY: dict[str, _Sampling] = {}

SAMPLINGS: KeysView[str] = _REGISTRY.keys()
"""The names of the known samplings, a live view of the registry."""


def register(
    name: str,
    *,
    wording: str,
    relation: str = ADD_OR_REMOVE_ONE,
    once_an_epoch: bool = False,
) -> Callable[[EventBuilder], EventBuilder]:
    """Return a decorator that makes a function the event of the sampling `name`.

    Args:
        name: The value of `PrivacyPlan.sampling` that selects it.
        wording: How the examples of an update are drawn, for the privacy statement. It may use
            `{probability}` and the fields of the plan.
        relation: The neighbouring relation for which the event holds.
        once_an_epoch: Whether an example enters at most one of `plan.updates_per_epoch` updates,
            so that the event is that of an epoch.

    Returns:
        A decorator for a function from a checked `PrivacyPlan` to the `DpEvent` of one update, or
        of one epoch.
    """

    def decorate(build: EventBuilder) -> EventBuilder:
        _REGISTRY[name] = _Sampling(build, wording, relation, once_an_epoch)
        return build

    return decorate


def event(plan: PrivacyPlan) -> DpEvent:
    """Return what one update under `plan` releases, or one epoch of them: see `count`.

    Args:
        plan: The plan of the update. It is checked here, once per stretch of training.

    Returns:
        A `dp_accounting.DpEvent`, hashable and comparable: equal events may be counted together.

    Raises:
        ValueError: when the sampling is not known or the numbers do not fit together.

    Privacy:
        The event holds for neighbouring data sets that differ by one example added or removed,
        and for a sum in which one example moves at most `clip_norm`.
    """
    check(plan)
    if once_an_epoch(plan.sampling):
        validation.positive_int("updates_per_epoch", plan.updates_per_epoch)
    return _REGISTRY[plan.sampling].build(plan)


def check(plan: PrivacyPlan) -> None:
    """Raise `ValueError` when the sampling is not known or the numbers do not fit together."""
    validation.one_of("sampling", plan.sampling, SAMPLINGS)
    batch_size = validation.positive_int("batch_size", plan.batch_size)
    dataset_size = validation.positive_int("dataset_size", plan.dataset_size)
    validation.positive_float("clip_norm", plan.clip_norm)
    validation.non_negative_float("noise_multiplier", plan.noise_multiplier)
    if validation.one_of("noise", plan.noise, NOISES) == "discrete_gaussian":
        validation.positive_int("dimension", plan.dimension)
    if batch_size > dataset_size:
        raise ValueError(
            "`batch_size` must be at most `dataset_size`. "
            f"Received: batch_size={batch_size}, dataset_size={dataset_size}. "
            "Use a smaller batch."
        )


def completed(plan: PrivacyPlan) -> PrivacyPlan:
    """Fill in what follows from the batch size of a checked plan."""
    if plan.sampling == "truncated_poisson" and plan.largest_batch is None:
        largest = default_largest_batch(plan.dataset_size, plan.batch_size)
        return replace(plan, largest_batch=largest)
    if once_an_epoch(plan.sampling):
        steps = updates_per_epoch(plan.dataset_size, plan.batch_size)
        return replace(plan, updates_per_epoch=steps)
    return plan


def count(plan: PrivacyPlan, updates: int) -> int:
    """Return how many times the event happened in an unbroken stretch of `updates` updates.

    An epoch that was begun counts as a whole one.
    """
    if not once_an_epoch(plan.sampling):
        return updates
    return -(-updates // int(plan.updates_per_epoch or 1))


def once_an_epoch(sampling: str) -> bool:
    """Return whether an example enters at most one update of an epoch."""
    return _REGISTRY[sampling].once_an_epoch


def relation(samplings: Iterable[str]) -> str:
    """Return the neighbouring relation for which all of these samplings are accounted.

    An example that was never there moves a Poisson sample's sum as much as an empty one, so what
    holds for the first relation holds for the second, but not the other way.
    """
    relations = {_REGISTRY[name].relation for name in samplings}
    return REPLACE_SPECIAL if REPLACE_SPECIAL in relations else ADD_OR_REMOVE_ONE


def wording(plan: PrivacyPlan) -> str:
    """Return one clause that says how the examples of an update under `plan` were drawn."""
    probability = f"{plan.batch_size / plan.dataset_size:.6g}"
    return _REGISTRY[plan.sampling].wording.format(probability=probability, **plan.get_config())


@register(
    "poisson",
    wording="Poisson sampling: each of {dataset_size} examples joined each update "
    "independently with probability {probability} (expected batch size {batch_size})",
)
def _poisson(plan: PrivacyPlan) -> DpEvent:
    return PoissonSampledDpEvent(
        int(plan.batch_size) / int(plan.dataset_size), _gaussian(plan.noise_multiplier)
    )


@register("full_batch", wording="full batch: every update used all {dataset_size} examples")
def _full_batch(plan: PrivacyPlan) -> DpEvent:
    if plan.batch_size != plan.dataset_size:
        raise ValueError(
            "`batch_size` must equal `dataset_size` when sampling='full_batch'. "
            f"Received: batch_size={plan.batch_size}, dataset_size={plan.dataset_size}. "
            "Set batch_size to the number of examples, or use sampling='poisson'."
        )
    return _gaussian(plan.noise_multiplier)


@register(
    "given",
    wording="given batches (batch size {batch_size} of {dataset_size} examples): the caller "
    "chose them, so every example is counted in every update, with no gain from sampling",
)
def _given(plan: PrivacyPlan) -> DpEvent:
    return _gaussian(plan.noise_multiplier)


@register(
    "truncated_poisson",
    wording="truncated Poisson sampling: each of {dataset_size} examples joined each update "
    "independently with probability {probability} (expected batch size {batch_size}), and of more "
    "than {largest_batch} a random {largest_batch} were kept",
)
def _truncated_poisson(plan: PrivacyPlan) -> DpEvent:
    largest_batch = validation.positive_int("largest_batch", plan.largest_batch)
    return TruncatedSubsampledGaussianDpEvent(
        int(plan.dataset_size),
        int(plan.batch_size) / int(plan.dataset_size),
        largest_batch,
        min(float(plan.noise_multiplier), _MOST_NOISE),
    )


@register(
    "balls_in_bins",
    wording="balls-in-bins sampling: each of {dataset_size} examples took part in one of every "
    "{updates_per_epoch} updates, drawn at random (expected batch size {batch_size})",
    once_an_epoch=True,
)
def _balls_in_bins(plan: PrivacyPlan) -> DpEvent:
    noise_multiplier = min(float(plan.noise_multiplier), _MOST_NOISE)
    return BallsInBinsDpEvent(int(plan.updates_per_epoch or 1), noise_multiplier)


@register(
    "shuffle",
    wording="shuffled data, cut into batches of {batch_size}: each of {dataset_size} examples took "
    "part in at most one of every {updates_per_epoch} updates, with no gain from sampling",
    relation=REPLACE_SPECIAL,
    once_an_epoch=True,
)
def _shuffle(plan: PrivacyPlan) -> DpEvent:
    return _gaussian(plan.noise_multiplier)


@register(
    "stream",
    wording="batches of a stream (declared batch size {batch_size}): as the user states, each of "
    "{dataset_size} examples took part in at most one of every {updates_per_epoch} updates; no "
    "gain from sampling",
    relation=REPLACE_SPECIAL,
    once_an_epoch=True,
)
def _stream(plan: PrivacyPlan) -> DpEvent:
    return _gaussian(plan.noise_multiplier)


@register(
    "poisson_stream",
    wording="batches of a stream that the user states to be Poisson samples: each of "
    "{dataset_size} examples joined each update independently with probability {probability} "
    "(expected batch size {batch_size}). This statement was not checked",
)
def _poisson_stream(plan: PrivacyPlan) -> DpEvent:
    return _poisson(plan)


def _gaussian(noise_multiplier: float) -> DpEvent:
    # More noise than anybody needs is counted as less of it: its square must not overflow.
    return GaussianDpEvent(min(float(noise_multiplier), _MOST_NOISE))
