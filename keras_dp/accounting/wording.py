"""The plain language of the privacy statement."""

import math
import textwrap
from collections.abc import Iterator
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING

from keras_dp.accounting import events
from keras_dp.plan import PrivacyPlan

if TYPE_CHECKING:
    from keras_dp.accounting.statement import PrivacyStatement

_WIDTH = 88

NOT_COVERED = (
    "Metrics and losses shown during training are exact functions of the training data.",
    "Validation metrics are exact functions of the validation data, and so is what callbacks "
    "select by them (early stopping, the best checkpoint).",
    "Choosing hyper-parameters by results on the same data.",
    "The size of the data set and the batch size: they are treated as public.",
    "Data used for pre-training, and preprocessing that was fitted on the data.",
    "Attacks on floating-point noise: it is drawn and added in float32.",
)
"""What the guarantee does not speak about."""


def text(statement: "PrivacyStatement") -> str:
    """Return `statement` as paragraphs and lists, wrapped to 88 columns."""
    parts = [
        "PRIVACY STATEMENT",
        _wrap(_result(statement)),
        _wrap(_meaning(statement)),
        "\n".join(["How the updates were made:", *map(_bullet, _updates(statement))]),
        _wrap(_accounting(statement)),
        _wrap(_randomness(statement)),
        "\n".join(["What is not covered:", *map(_bullet, NOT_COVERED)]),
    ]
    return "\n\n".join(part for part in parts if part)


def rounded_up(value: float, digits: int = 2) -> str:
    """Return `value` with `digits` decimals, never smaller than it is."""
    if not math.isfinite(value):
        return "infinite"
    unit = Decimal(1).scaleb(-digits)
    return str(Decimal(repr(float(value))).quantize(unit, rounding=ROUND_CEILING))


def _result(statement: "PrivacyStatement") -> str:
    return " ".join([_spent(statement), *_budget(statement)])


def _spent(statement: "PrivacyStatement") -> str:
    spent = statement.spent
    if not spent.updates:
        return "No update was made yet: nothing of the training data was released (epsilon = 0)."
    if not math.isfinite(spent.epsilon):
        return (
            f"There is NO privacy: epsilon is infinite at delta = {spent.delta:g}. At least one of "
            f"the {spent.updates} updates was made without enough noise to limit what it reveals, "
            "so the model may disclose any of its training examples."
        )
    return (
        f"The {spent.updates} updates of this model are (epsilon, delta)-differentially private "
        f"with epsilon = {rounded_up(spent.epsilon)} (rounded up) and delta = {spent.delta:g}."
    )


def _budget(statement: "PrivacyStatement") -> Iterator[str]:
    budget = statement.budget
    if budget is not None:
        yield (
            f"The budget is epsilon = {budget.epsilon:g} at delta = {budget.delta:g} (accountant "
            f"{budget.accountant}); updates that would pass it are refused."
        )


def _meaning(statement: "PrivacyStatement") -> str:
    return (
        "The unit of privacy is one example: one row of the training data. If a person has several "
        "rows, the guarantee for that person is weaker. Two data sets are neighbours when one of "
        "them has one example more than the other (add or remove one): for any two neighbours, the "
        "probability of every outcome of the training differs by at most a factor e^epsilon, plus "
        "delta."
    )


def _updates(statement: "PrivacyStatement") -> Iterator[str]:
    if not statement.releases:
        yield "none"
    for plan, updates in statement.releases:
        yield f"{updates} updates, {events.wording(plan)}. {_noise(plan)}"


def _noise(plan: PrivacyPlan) -> str:
    rule = "" if plan.clipping == "flat" else f" (clip rule {plan.clipping})"
    if not plan.noise_multiplier:
        return f"Clip norm {plan.clip_norm:g}{rule}, noise multiplier 0: no noise was added."
    if plan.clipping == "adaptive":
        return (
            f"Clip norm {plan.clip_norm:g} at first, then following a quantile of the gradients' "
            f"norms by noisy counts; noise multiplier {plan.noise_multiplier:g} for the sum of the "
            "clipped gradients and the count together."
        )
    return (
        f"Clip norm {plan.clip_norm:g}{rule}, noise multiplier {plan.noise_multiplier:g}: noise of "
        f"standard deviation {plan.noise_stddev:g} on the sum of the clipped gradients."
    )


def _accounting(statement: "PrivacyStatement") -> str:
    version, accountant = statement.dp_accounting_version, statement.spent.accountant
    return " ".join([f"Accountant: {accountant} of dp-accounting {version}.", *_others(statement)])


def _others(statement: "PrivacyStatement") -> Iterator[str]:
    if statement.comparison and statement.spent.updates:
        figures = " and ".join(f"{epsilon:.2f} ({name})" for name, epsilon in statement.comparison)
        yield f"For comparison with published figures, to two decimals: epsilon = {figures}."


def _randomness(statement: "PrivacyStatement") -> str:
    if not statement.releases:
        return ""
    if statement.seeded:
        return (
            "WARNING: noise or sampling was seeded. Anyone who knows the seed can draw the same "
            "noise and remove it; the guarantee holds only for those who do not know it."
        )
    return "Noise and sampling were keyed by the operating system: no seed was given."


def _wrap(paragraph: str) -> str:
    return textwrap.fill(paragraph, _WIDTH)


def _bullet(item: str) -> str:
    return textwrap.fill(item, _WIDTH, initial_indent="- ", subsequent_indent="  ")
