"""Lower bounds on epsilon from guesses about which canaries took part."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from scipy.stats import binom

from keras_dp import validation
from keras_dp.auditing.tradeoff import Array, Family, GaussianFamily, Profile, TradeOff

FRACTIONS = (1.0, 0.5, 0.2, 0.1, 0.05)
"""Parts of the canaries that are guessed about, each at an equal part of the confidence."""

_STEP = math.log(1.005)
"""Distance of the strengths that are tried; bounds are rounded down to one of them."""

_FIRST_STRIDE = 64


@dataclass(frozen=True)
class Guesses:
    """How often an attack was right.

    Args:
        correct: Number of right guesses.
        guesses: Number of guesses, fixed before the attack saw anything.
        canaries: Number of canaries, of which the others were abstained from.

    Raises:
        ValueError: unless `0 <= correct <= guesses <= canaries` and there is a guess.
    """

    correct: int
    guesses: int
    canaries: int

    def __post_init__(self) -> None:
        """Refuse counts that do not fit together."""
        if not 0 <= self.correct <= self.guesses <= self.canaries or self.guesses < 1:
            raise ValueError(
                "Guesses must fulfil 0 <= correct <= guesses <= canaries and guesses >= 1. Received"
                f" correct={self.correct}, guesses={self.guesses}, canaries={self.canaries}."
            )


@dataclass(frozen=True)
class Bound:
    """A lower bound on epsilon.

    Attributes:
        epsilon: With probability `confidence` or more, the true epsilon is at least this.
        delta: At which delta.
        confidence: The confidence.
        method: How it was computed, a key of `METHODS`.
        guesses: The guesses that gave it, or, at 0, the first that were tried.
    """

    epsilon: float
    delta: float
    confidence: float
    method: str
    guesses: Guesses


class _OnePair(Family):
    """(epsilon, delta)-differential privacy at one delta and nothing more."""

    weakest = 1e-3
    strongest = 500.0

    def __init__(self, delta: float) -> None:
        self._delta = delta

    def member(self, strength: float) -> Profile:
        """Return what `epsilon = strength` leaves possible."""
        return Profile((strength,), (self._delta,))

    def epsilon(self, strength: float, delta: float) -> float:
        """Return the strength, which is the epsilon."""
        del delta
        return strength


def lower_bound(
    scores: Any,
    included: Any,
    *,
    delta: float,
    confidence: float = 0.95,
    method: str = "independent",
    family: Family | None = None,
    fractions: Sequence[float] | None = None,
) -> Bound:
    """Return a lower bound on epsilon from one score for each canary.

    A high score says "took part". For each of `fractions`, fixed beforehand, as many canaries are
    guessed about, half of them with the highest scores and half with the lowest, and each has an
    equal part of the error probability; at 1.0 the scores are split in two clusters instead.

    - `"independent"`: guesses are right independently of each other with probability
      `(1 + advantage) / 2` at most. It holds where every canary has noise of its own, as gradient
      canaries have, and is nearly tight: about `1000 / mu^2` canaries, and 500 at
      least, give 80 % of epsilon.
    - `"f_dp"`: whatever the canaries do to each other. It stays at 60 to 70 % of epsilon even with
      very many canaries, since it allows that all of them leak together.
    - `"one_run"`: as `"f_dp"`, and without assuming the shape of the trade-off function. Far below
      the true epsilon at a small delta.

    Args:
        scores: One finite number for each canary.
        included: For each canary whether it took part, decided by a fair coin.
        delta: Float in (0, 1).
        confidence: Float in (0, 1), default 0.95.
        method: `"independent"`, `"f_dp"` or `"one_run"`.
        family: What the mechanism is taken to be one of; default `GaussianFamily()`. Of no use to
            `"one_run"`.
        fractions: Parts of the canaries that are guessed about, each in (0, 1]; default: all of
            them for `"independent"`, `FRACTIONS` for the others.

    Raises:
        ValueError: for scores that are no numbers, or values out of range.

    Example:
        >>> from keras_dp import auditing
        >>> rng = np.random.default_rng(0)
        >>> included = rng.random(2000) < 0.5
        >>> scores = rng.normal(size=2000) + included  # a Gaussian mechanism with mu = 1
        >>> bound = auditing.lower_bound(scores, included, delta=1e-5)
        >>> bool(0.8 * 4.38 < bound.epsilon < 4.38)
        True

    References:
        Steinke, Nasr, Jagielski 2023, Privacy Auditing with One (1) Training Run
        (https://arxiv.org/abs/2305.08846); Mahloujifar, Melis, Chaudhuri 2024, Auditing
        f-Differential Privacy in One Run (https://arxiv.org/abs/2410.22235).
    """
    scores, included = check_scores(scores, included)
    delta = validation.open_probability("delta", delta)
    confidence = validation.open_probability("confidence", confidence)
    validation.one_of("method", method, METHODS)
    if fractions is None:
        fractions = (1.0,) if method == "independent" else FRACTIONS
    guesses = [guess(scores, included, fraction) for fraction in fractions]
    significance = np.full(len(guesses), (1 - confidence) / len(guesses))
    if method == "one_run":
        family = _OnePair(delta)
    family = family or GaussianFamily()
    strength, which = strongest_refuted(family, METHODS[method], guesses, significance)
    epsilon = family.epsilon(strength, delta) if strength else 0.0
    return Bound(epsilon, delta, confidence, method, guesses[which])


def strongest_refuted(
    family: Family, refutes: "Refutes", guesses: Sequence[Guesses], significance: Array
) -> tuple[float, int]:
    """Return the strength of the strongest member that any of the guesses refute, and which.

    Args:
        family: Trade-off functions ordered by strength.
        refutes: A value of `METHODS`.
        guesses: Several attacks.
        significance: For each the probability with which it may refute a true claim. The bound
            holds with confidence one minus their sum.

    Returns:
        The strength, 0.0 if even the weakest member stands, and the position of the guesses.
    """
    # Places on one grid for all searches, so that the members they ask for are the same.
    low = math.ceil(math.log(family.weakest) / _STEP) - 1
    high = math.floor(math.log(family.strongest) / _STEP) + 1
    end, place, stride, which = high, min(max(0, low + 1), high - 1), _FIRST_STRIDE, 0
    weakest = low
    while high - low > 1:
        found = refutes(guesses, family.member(math.exp(place * _STEP)), significance)
        if found.any():
            low, which = place, int(found.argmax())
        else:
            high = place
        # Strong members cost more to compute: they are approached from below.
        stride *= 2
        place = (low + high) // 2 if high < end else min((low + high) // 2, low + stride)
    return (0.0 if low == weakest else math.exp(low * _STEP)), which


def check_scores(scores: Any, included: Any) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Return scores and inclusion as arrays, or raise `ValueError`."""
    scores = np.asarray(scores, np.float64)
    included = np.asarray(included)
    if scores.ndim != 1 or scores.shape != included.shape or len(scores) < 2:
        raise ValueError(
            "`scores` and `included` must have one entry for each of two canaries or more. "
            f"Received shapes {scores.shape} and {included.shape}."
        )
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        raise ValueError(
            f"`scores` must be finite. Received {bad} NaN or infinite ones among {len(scores)}. "
            "Leave no canary out: give one that cannot be scored the score of no evidence."
        )
    if included.dtype != np.bool_ and not np.isin(included, (0, 1)).all():
        raise ValueError("`included` must be true or false for each canary. Received other values.")
    return scores, included.astype(np.bool_)


def guess(
    scores: Any, included: Any, fraction: float = 1.0, threshold: float | None = None
) -> Guesses:
    """Guess about a fraction of the canaries and count what is right.

    Args:
        scores: One finite number for each canary; high says "took part".
        included: For each canary whether it took part.
        fraction: Float in (0, 1]: how many are guessed about, half of them with the highest and
            half with the lowest scores.
        threshold: For a fraction of 1: scores above it say "took part"; `None` for the value that
            splits the scores in two clusters.

    Raises:
        ValueError: for scores that are no numbers, or a fraction out of range.
    """
    scores, included = check_scores(scores, included)
    count = len(scores)
    if not 0 < fraction <= 1:
        raise ValueError(f"`fractions` must lie in (0, 1]. Received: {fraction!r}.")
    if fraction == 1:
        split = two_clusters(scores) if threshold is None else threshold
        return Guesses(int(((scores > split) == included).sum()), count, count)
    half = max(1, round(fraction * count / 2))
    order = np.argsort(scores, kind="stable")
    correct = included[order[-half:]].sum() + (~included[order[:half]]).sum()
    return Guesses(int(correct), 2 * half, count)


def two_clusters(scores: Array) -> float:
    """Return the threshold between two clusters with the least squares within them.

    It is a function of the scores alone, so it may be chosen after they are seen.
    """
    ordered = np.sort(scores)
    sizes = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)[:-1]
    between = sums**2 / sizes + (ordered.sum() - sums) ** 2 / (len(ordered) - sizes)
    place = int(np.argmax(between))
    return float((ordered[place] + ordered[place + 1]) / 2)


def one_run_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Return how probable so many right guesses are under (epsilon, delta)-differential privacy.

    `beta + 2 m delta max_i (P(W >= correct - i) - P(W >= correct)) / i`, where `beta` is
    `P(W >= correct)` and `W` counts the heads of `guesses` coins of `e^epsilon / (1 + e^epsilon)`.

    Args:
        guesses: The guesses; abstaining is allowed.
        epsilon: Float of at least 0.
        delta: Float in [0, 1].

    References:
        Steinke, Nasr, Jagielski 2023, theorem 5.2.
    """
    wrong = guesses.guesses - guesses.correct
    # Counting the wrong ones keeps all digits where epsilon is large.
    below = binom.cdf(np.arange(wrong, guesses.guesses + 1), guesses.guesses, expit(-epsilon))
    lost = 0.0
    if delta > 0 and len(below) > 1:
        lost = max(0.0, float(np.max((below[1:] - below[0]) / np.arange(1, len(below)))))
    return float(min(1.0, below[0] + 2 * guesses.canaries * delta * lost))


def independent_p_value(guesses: Guesses, trade_off: TradeOff) -> float:
    """Return how probable so many right guesses are if each is right on its own.

    `P(W >= correct)`, where `W` counts the heads of as many coins of `(1 + advantage) / 2`.

    Args:
        guesses: Guesses about all canaries.
        trade_off: What is claimed.

    Raises:
        ValueError: when some canaries were not guessed about: the most certain ones are right more
            often.
    """
    if guesses.guesses != guesses.canaries:
        raise ValueError(
            "method='independent' needs a guess about every canary. Received "
            f"{guesses.guesses} guesses about {guesses.canaries}; leave `fractions` out."
        )
    wrong = guesses.guesses - guesses.correct
    return float(binom.cdf(wrong, guesses.guesses, (1 - trade_off.advantage) / 2))


def _one_run(guesses: Sequence[Guesses], trade_off: TradeOff, significance: Array) -> Any:
    if not isinstance(trade_off, Profile) or len(trade_off.epsilons) != 1:
        raise ValueError("method='one_run' works with a single epsilon and delta, no `family`.")
    pair = trade_off.epsilons[0], trade_off.deltas[0]
    return np.array([one_run_p_value(one, *pair) for one in guesses]) <= significance


def _independent(guesses: Sequence[Guesses], trade_off: TradeOff, significance: Array) -> Any:
    return np.array([independent_p_value(one, trade_off) for one in guesses]) <= significance


def _f_dp(guesses: Sequence[Guesses], trade_off: TradeOff, significance: Array) -> Any:
    """Whether so many right guesses have less than this probability under the trade-off function.

    Let `p_i` be the probability of `i` right guesses among `g` about `m` canaries, and
    `right_i = sum_{j >= i} p_j j / m`, `wrong_i = sum_{j >= i} p_j (g - j) / m`. Turning one
    canary's coin makes a right guess wrong, so the trade-off function bounds `right_{i+1}` by
    `wrong_i`: `wrong_i >= least_fpr(right_{i+1})`. From the tail that is observed, the least mass
    below it is built up; if more is needed than there is, the tail was too improbable.

    All attacks are followed at once, from the largest count down.
    """
    correct, count, canaries = (
        np.array([getattr(one, name) for one in guesses], np.float64)
        for name in ("correct", "guesses", "canaries")
    )
    right, wrong = significance * correct / canaries, significance * (count - correct) / canaries
    whole = count / canaries
    moving = np.ones(len(guesses), np.bool_)
    for i in range(int(correct.max()) - 1, -1, -1):
        begun = i < correct
        needed = np.maximum(wrong, trade_off.least_fpr(right))
        # Where nothing more is needed, nothing ever will be.
        moving &= ~begun | ((needed > wrong) & (right + wrong <= whole))
        if not moving.any():
            break
        step = np.where(moving & begun, needed - wrong, 0.0)
        right = np.minimum(right + i / np.maximum(count - i, 1) * step, 1.0)
        wrong = wrong + step
    return right + wrong > whole


Refutes = Callable[[Sequence[Guesses], TradeOff, Array], npt.NDArray[np.bool_]]

METHODS: dict[str, Refutes] = {"independent": _independent, "f_dp": _f_dp, "one_run": _one_run}
"""For each method whether guesses refute a trade-off function, at a significance for each."""
