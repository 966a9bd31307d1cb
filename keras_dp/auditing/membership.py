"""Membership inference against a trained model, beside what its privacy promise allows."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri
from scipy.stats import beta, rankdata

from keras_dp import validation
from keras_dp.auditing import plots
from keras_dp.auditing.bounds import check_scores
from keras_dp.auditing.tradeoff import Array, Profile

FALSE_POSITIVE_RATES = (0.001, 0.01)
_WIDTH = 88


@dataclass(frozen=True)
class Estimate:
    """A figure with its confidence interval.

    Args:
        value: The figure.
        low: Lower end.
        high: Upper end.
        limit: The largest value that the privacy promise allows, or `None` without one. For a true
            positive rate it allows for what the false positive rate may be off.
    """

    value: float
    low: float
    high: float
    limit: float | None = None


@dataclass(frozen=True)
class MembershipReport:
    """How well an attack tells training examples from others; `str(report)` says it in words.

    Args:
        attack: Name of the attack.
        members: Number of training examples attacked.
        others: Number of other examples.
        confidence: Of each interval by itself.
        auc: Area under the ROC curve: 0.5 is guessing.
        advantage: Largest difference of true and false positive rate.
        tpr_at: True positive rate at each false positive rate.
        epsilon: The promise, or `None`.
        delta: The promise, or `None`.
        rates: False and true positive rates of the ROC curve.
    """

    attack: str
    members: int
    others: int
    confidence: float
    auc: Estimate
    advantage: Estimate
    tpr_at: Mapping[float, Estimate]
    epsilon: float | None
    delta: float | None
    rates: Any = field(repr=False, compare=False)

    @property
    def above_limit(self) -> bool:
        """Whether some interval lies above what the promise allows."""
        figures = (self.auc, self.advantage, *self.tpr_at.values())
        return any(one.limit is not None and one.low > one.limit for one in figures)

    def __str__(self) -> str:
        """Return the report as a table with a sentence before it."""
        rows = {"AUC": self.auc, "advantage": self.advantage}
        rows.update({f"TPR at FPR {rate:g}": one for rate, one in self.tpr_at.items()})
        width = max(map(len, rows))
        lines = [textwrap.fill(self._sentence(), _WIDTH), ""]
        for name, one in rows.items():
            limit = "" if one.limit is None else f"  allowed: {one.limit:.4f}"
            lines.append(
                f"{name:<{width}}  {one.value:.4f} ({one.low:.4f} to {one.high:.4f}){limit}"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, without the ROC curve."""
        return {
            "attack": self.attack,
            "members": self.members,
            "others": self.others,
            "confidence": self.confidence,
            "auc": vars(self.auc),
            "advantage": vars(self.advantage),
            "tpr_at": {f"{rate:g}": vars(one) for rate, one in self.tpr_at.items()},
            "epsilon": self.epsilon,
            "delta": self.delta,
            "above_limit": self.above_limit,
        }

    def plot(self, path: str | Path) -> None:
        """Draw the ROC curve beside the limit of the promise into a file.

        Raises:
            ImportError: when matplotlib is not installed: `pip install keras-dp[audit]`.
        """
        fpr, tpr = (np.asarray(rates) for rates in self.rates)
        limit = None
        if self.epsilon is not None and self.delta is not None:
            limit = most_tpr(fpr, self.epsilon, self.delta)
        plots.draw_roc((fpr, tpr), limit, path)

    def _sentence(self) -> str:
        attacked = f"{self.members} training examples and {self.others} others"
        if self.epsilon is None:
            return f"The {self.attack} attack on {attacked}."
        promise = f"({self.epsilon:.3g}, {self.delta:g})-differential privacy"
        if self.above_limit:
            return f"The {self.attack} attack on {attacked} does better than {promise} allows."
        return f"The {self.attack} attack on {attacked} stays within what {promise} allows."


def membership_report(
    scores: Any,
    members: Any,
    *,
    attack: str = "loss threshold",
    epsilon: float | None = None,
    delta: float | None = None,
    confidence: float = 0.95,
    false_positive_rates: tuple[float, ...] = FALSE_POSITIVE_RATES,
) -> MembershipReport:
    """Report how well scores tell members of the training set from others.

    With `-losses` as scores it is the threshold attack of Yeom et al.; `lira_scores` gives a
    stronger one.

    Args:
        scores: One number for each example; high says "member".
        members: For each example whether it was trained on. Members and others must be drawn from
            the same population, or differences between the two are taken for memory.
        attack: Name of the attack, for the report.
        epsilon: The promise under which the model was trained, to compare with; or `None`.
        delta: Its delta; both or none.
        confidence: Float in (0, 1), default 0.95, of each interval by itself.
        false_positive_rates: At which true positive rates are reported.

    Returns:
        A `MembershipReport`. Intervals of the rates are Clopper and Pearson's, at the threshold
        that the other examples set; those of AUC and advantage follow from DeLong's variance and
        the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart. All take the examples as
        independent, which those of one training set are only nearly.

    Raises:
        ImportError: when scikit-learn is not installed: `pip install keras-dp[audit]`.
        ValueError: for scores that are not finite, one kind of example only, or values out of
            range.

    Privacy:
        It is computed from single losses of the training data, and is not covered by the guarantee.

    Example:
        >>> from keras_dp import auditing
        >>> rng = np.random.default_rng(0)
        >>> members = np.arange(1000) < 500
        >>> report = auditing.membership_report(rng.normal(size=1000), members)
        >>> report.auc.low < 0.5 < report.auc.high
        True

    References:
        Yeom et al. 2018, Privacy Risk in Machine Learning (https://arxiv.org/abs/1709.01604);
        Carlini et al. 2022, Membership Inference Attacks From First Principles
        (https://arxiv.org/abs/2112.03570).
    """
    scores, members = check_scores(scores, members)
    confidence = validation.open_probability("confidence", confidence)
    _check_promise(epsilon, delta)
    inside, outside = scores[members], scores[~members]
    if not len(inside) or not len(outside):
        raise ValueError(
            "`members` must name some examples as members and some as others. Received "
            f"{len(inside)} members among {len(scores)}."
        )
    fpr, tpr = roc(scores, members)
    promise = None if epsilon is None or delta is None else (epsilon, delta)
    return MembershipReport(
        attack=attack,
        members=len(inside),
        others=len(outside),
        confidence=confidence,
        auc=_auc(inside, outside, confidence, promise),
        advantage=_advantage(fpr, tpr, (len(inside), len(outside)), confidence, promise),
        tpr_at={
            validation.open_probability("false_positive_rates", rate): _tpr(
                inside, outside, rate, confidence, promise
            )
            for rate in false_positive_rates
        },
        epsilon=epsilon,
        delta=delta,
        rates=(fpr, tpr),
    )


def most_tpr(fpr: Any, epsilon: float, delta: float) -> Array:
    """Return the largest true positive rate that (epsilon, delta)-differential privacy allows.

    `min(e^epsilon fpr + delta, 1 - e^-epsilon (1 - delta - fpr), 1)`.

    Args:
        fpr: False positive rates.
        epsilon: Float of at least 0.
        delta: Float in [0, 1].
    """
    return 1 - Profile((epsilon,), (delta,)).least_fpr(1 - np.asarray(fpr, np.float64))


def roc(scores: Any, members: Any) -> tuple[Array, Array]:
    """Return false and true positive rates of all thresholds, by scikit-learn.

    Raises:
        ImportError: when scikit-learn is not installed: `pip install keras-dp[audit]`.
    """
    try:
        from sklearn.metrics import roc_curve
    except ImportError as error:
        raise ImportError(
            "ROC curves need scikit-learn. Install it with `pip install keras-dp[audit]`."
        ) from error
    fpr, tpr, _ = roc_curve(members, scores)
    return fpr, tpr


_Promise = tuple[float, float] | None


def _auc(inside: Array, outside: Array, confidence: float, promise: _Promise) -> Estimate:
    """Area and DeLong's variance, from the ranks of each group alone and of both together."""
    both = rankdata(np.concatenate([inside, outside]))
    n, k = len(inside), len(outside)
    wins = (both[:n] - rankdata(inside)) / k
    losses = (both[n:] - rankdata(outside)) / n
    area = float(wins.mean())
    variance = sum(np.var(part, ddof=1) / len(part) for part in (wins, losses) if len(part) > 1)
    spread = float(ndtri((1 + confidence) / 2) * math.sqrt(variance))
    limit = None
    if promise is not None:
        fpr = np.linspace(0, 1, 2001)
        limit = float(np.trapezoid(most_tpr(fpr, *promise), fpr))
    return Estimate(area, max(0.0, area - spread), min(1.0, area + spread), limit)


def _advantage(
    fpr: Array, tpr: Array, sizes: tuple[int, int], confidence: float, promise: _Promise
) -> Estimate:
    """Largest difference, give or take what two empirical distributions may be off."""
    value = float(np.max(tpr - fpr))
    off = sum(math.sqrt(math.log(4 / (1 - confidence)) / (2 * size)) for size in sizes)
    limit = None if promise is None else Profile((promise[0],), (promise[1],)).advantage
    return Estimate(value, max(0.0, value - off), min(1.0, value + off), limit)


def _tpr(
    inside: Array, outside: Array, rate: float, confidence: float, promise: _Promise
) -> Estimate:
    """True positive rate at the least threshold that keeps the false positive rate."""
    allowed = int(rate * len(outside))
    threshold = np.sort(outside)[::-1][min(allowed, len(outside) - 1)]
    found, size = int((inside > threshold).sum()), len(inside)
    tail = (1 - confidence) / 2
    low = 0.0 if found == 0 else float(beta.ppf(tail, found, size - found + 1))
    high = 1.0 if found == size else float(beta.ppf(1 - tail, found + 1, size - found))
    # The threshold is one of the others' scores, so the true rate above it has a beta distribution.
    reached = beta.ppf(1 - tail, allowed + 1, len(outside) - allowed)
    limit = None if promise is None else float(most_tpr(max(rate, reached), *promise))
    return Estimate(found / size, low, high, limit)


def _check_promise(epsilon: Any, delta: Any) -> None:
    if (epsilon is None) != (delta is None):
        raise ValueError(
            "`epsilon` and `delta` make one promise: give both or none. "
            f"Received epsilon={epsilon!r}, delta={delta!r}."
        )
    if epsilon is not None:
        validation.non_negative_float("epsilon", epsilon)
        validation.open_probability("delta", delta)
