"""What one update releases: a plan becomes the event that the accountant composes."""

from collections.abc import Callable, KeysView
from dataclasses import dataclass

from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent

from keras_dp import validation
from keras_dp.plan import PrivacyPlan

_MOST_NOISE = 1e9

EventBuilder = Callable[[PrivacyPlan], DpEvent]


@dataclass(frozen=True)
class _Sampling:
    build: EventBuilder
    wording: str


_REGISTRY: dict[str, _Sampling] = {}

SAMPLINGS: KeysView[str] = _REGISTRY.keys()
"""The names of the known samplings, a live view of the registry."""


def register(name: str, *, wording: str) -> Callable[[EventBuilder], EventBuilder]:
    """Return a decorator that makes a function the event of the sampling `name`.

    Args:
        name: The value of `PrivacyPlan.sampling` that selects it.
        wording: How the examples of an update are drawn, for the privacy statement. It may use
            `{batch_size}`, `{dataset_size}` and `{probability}`.

    Returns:
        A decorator for a function from a checked `PrivacyPlan` to the `DpEvent` of one update.
    """

    def decorate(build: EventBuilder) -> EventBuilder:
        _REGISTRY[name] = _Sampling(build, wording)
        return build

    return decorate


def event(plan: PrivacyPlan) -> DpEvent:
    """Return what one update under `plan` releases, for the accountant to compose.

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
    name = validation.one_of("sampling", plan.sampling, SAMPLINGS)
    batch_size = validation.positive_int("batch_size", plan.batch_size)
    dataset_size = validation.positive_int("dataset_size", plan.dataset_size)
    validation.positive_float("clip_norm", plan.clip_norm)
    validation.non_negative_float("noise_multiplier", plan.noise_multiplier)
    if batch_size > dataset_size:
        raise ValueError(
            "`batch_size` must be at most `dataset_size`. "
            f"Received: batch_size={batch_size}, dataset_size={dataset_size}. "
            "Use a smaller batch."
        )
    return _REGISTRY[name].build(plan)


def wording(plan: PrivacyPlan) -> str:
    """Return one clause that says how the examples of an update under `plan` were drawn."""
    return _REGISTRY[plan.sampling].wording.format(
        batch_size=plan.batch_size,
        dataset_size=plan.dataset_size,
        probability=f"{plan.batch_size / plan.dataset_size:.6g}",
    )


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


def _gaussian(noise_multiplier: float) -> DpEvent:
    # More noise than anybody needs is counted as less of it: its square must not overflow.
    return GaussianDpEvent(min(float(noise_multiplier), _MOST_NOISE))
