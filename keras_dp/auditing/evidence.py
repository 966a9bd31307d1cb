"""The attacks of an audit, and what part of the error probability each may use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keras_dp.auditing import scores as scoring
from keras_dp.auditing.bounds import FRACTIONS, Guesses, guess
from keras_dp.auditing.canaries import Bools
from keras_dp.auditing.scores import Floats, Scored, Seen
from keras_dp.auditing.trials import Outcome

FEWEST_ON_A_VARIABLE = 8
"""With fewer, guesses that are all right prove nothing about a variable by itself."""


@dataclass(frozen=True)
class Evidence:
    """One attack, on all canaries or on some.

    Attributes:
        name: What it looks at.
        guesses: How often it was right.
        part: The part of the error probability that it may use.
    """

    name: str
    guesses: Guesses
    part: float


@dataclass(frozen=True)
class Case:
    """All attacks, and how to bound with them.

    Attributes:
        method: A key of `bounds.METHODS`.
        attacks: The attacks; their parts add up to 1.
        scores: For each canary the score of the first statistic.
    """

    method: str
    attacks: tuple[Evidence, ...]
    scores: Floats


def present(outcome: Outcome) -> Case:
    """Return the attacks on what the runs gave.

    Gradient canaries have noise of their own each, so guesses about them are right independently.
    Input canaries act on each other, so nothing of the kind is assumed.
    """
    if outcome.seen is not None:
        return _on_gradients(outcome.seen, outcome.included, outcome.paths)
    scores = np.asarray(outcome.losses, np.float64)
    attacks = tuple(
        Evidence(
            f"loss, on {fraction:.0%} of the canaries",
            guess(scores, outcome.included, fraction),
            1 / len(FRACTIONS),
        )
        for fraction in FRACTIONS
    )
    return Case("f_dp", attacks, scores)


def _on_gradients(seen: Seen, included: Bools, paths: Sequence[str]) -> Case:
    """Return the attacks on gradient canaries.

    The first statistic on all canaries, which is the best one when nothing is wrong, has half of
    the error probability; the other statistics have a quarter together, and the first statistic on
    single variables the rest. All of this is settled by the plan, not by what was seen.
    """
    names = scoring.applicable(len(seen.sums), seen.steps, seen.probability)
    first, *others = [scoring.STATISTICS[name](seen) for name in names]
    counts = np.bincount(seen.variables, minlength=len(paths))
    alone = [i for i, count in enumerate(counts) if FEWEST_ON_A_VARIABLE <= count < len(included)]
    shares = _shares((2, 1, 1), (1, len(others), len(alone)))
    attacks = [_attack(names[0], first, included, shares[0])]
    attacks += [
        _attack(name, scored, included, shares[1])
        for name, scored in zip(names[1:], others, strict=True)
    ]
    for variable in alone:
        here = seen.variables == variable
        scored = Scored(first.scores[here], first.threshold)
        name = f"{names[0]}, on {paths[variable]}"
        attacks.append(_attack(name, scored, included[here], shares[2]))
    return Case("independent", tuple(attacks), first.scores)


def _shares(weights: Sequence[int], sizes: Sequence[int]) -> list[float]:
    """Return the part of each member of groups that have weights; empty groups have none."""
    whole = sum(weight for weight, size in zip(weights, sizes, strict=True) if size)
    return [weight / whole / max(1, size) for weight, size in zip(weights, sizes, strict=True)]


def _attack(name: str, scored: Scored, included: Bools, part: float) -> Evidence:
    return Evidence(name, guess(scored.scores, included, 1.0, scored.threshold), part)


def measured_noise(outcome: Outcome) -> Mapping[str, float]:
    """Return the noise that was seen on each variable, as a part of what is claimed."""
    if outcome.seen is None or len(outcome.seen.sums) < 2:
        return {}
    measured = scoring.measured_noise(outcome.seen) / outcome.seen.noise
    first = {int(v): float(m) for v, m in zip(outcome.seen.variables, measured, strict=True)}
    return {outcome.paths[variable]: part for variable, part in first.items()}
