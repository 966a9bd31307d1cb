"""What an audit found, for people and for machines."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_dp.accounting.statement import finite_or_text
from keras_dp.auditing import plots
from keras_dp.auditing.bounds import Guesses

_WIDTH = 88
_METHODS = {
    "independent": "each canary has noise of its own, and the mechanism is the claimed one with "
    "more or less noise",
    "f_dp": "the mechanism is the claimed one with more or less noise",
    "one_run": "none",
}


@dataclass(frozen=True)
class AuditReport:
    """A lower bound on epsilon beside the claim; `str(report)` says it in plain words.

    Args:
        kind: `"gradient"` or `"input"`, the kind of canaries.
        epsilon: The lower bound.
        claimed_epsilon: What the accountant says of the audited run: an upper bound, if all is
            right.
        delta: The delta of both.
        confidence: With which the lower bound holds.
        canaries: Number of canaries, in all runs together.
        runs: Number of training runs.
        updates: Number of updates in each.
        method: How the bound was computed, a key of `bounds.METHODS`.
        statistic: Which statistic gave it, and where.
        guesses: Its guesses.
        other_bounds: Bounds by other methods, each with the same confidence by itself.
        noise: For each trainable variable the noise that was seen, as a part of the claimed noise;
            empty for input canaries.
        scores: For each canary the score of the first statistic.
        included: For each canary whether it took part.
    """

    kind: str
    epsilon: float
    claimed_epsilon: float
    delta: float
    confidence: float
    canaries: int
    runs: int
    updates: int
    method: str
    statistic: str
    guesses: Guesses
    other_bounds: Mapping[str, float]
    noise: Mapping[str, float]
    scores: Any = field(repr=False, compare=False)
    included: Any = field(repr=False, compare=False)

    @property
    def violated(self) -> bool:
        """Whether the lower bound is above the claim."""
        return self.epsilon > self.claimed_epsilon

    @property
    def verdict(self) -> str:
        """One sentence: whether the claim stands."""
        if self.violated:
            return (
                f"The claim is refuted: with {self.confidence:.0%} confidence epsilon is at least "
                f"{self.epsilon:.3g}, above the claimed {self.claimed_epsilon:.3g}. Training is "
                "less private than its accounting says."
            )
        return (
            f"The claim stands: with {self.confidence:.0%} confidence epsilon is at least "
            f"{self.epsilon:.3g}, and {self.claimed_epsilon:.3g} is claimed. This is no proof: an "
            "audit finds the faults that its canaries can feel."
        )

    def __str__(self) -> str:
        """Return the report in plain words, wrapped to 88 columns."""
        rows = {
            "lower bound on epsilon": f"{self.epsilon:.4g}",
            "claimed epsilon": f"{self.claimed_epsilon:.4g}",
            "delta": f"{self.delta:g}",
            "confidence": f"{self.confidence:g}",
            "canaries": f"{self.canaries} ({self.kind}), {self.runs} x {self.updates} updates",
            "given by": f"{self.statistic}: {self.guesses.correct} of {self.guesses.guesses} "
            "guesses right",
            "assumed": _METHODS[self.method],
        }
        for name, epsilon in self.other_bounds.items():
            rows[f"bound by {name!r}"] = f"{epsilon:.4g} (assumed: {_METHODS[name]})"
        if self.noise:
            path, least = min(self.noise.items(), key=lambda item: item[1])
            rows["least noise seen"] = f"{least:.2f} of the claimed, on {path}"
        return "\n".join([textwrap.fill(self.verdict, _WIDTH), "", *_table(rows)])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, without the single scores."""
        return {
            "verdict": "refuted" if self.violated else "stands",
            "epsilon": self.epsilon,
            "claimed_epsilon": finite_or_text(self.claimed_epsilon),
            "delta": self.delta,
            "confidence": self.confidence,
            "kind": self.kind,
            "canaries": self.canaries,
            "runs": self.runs,
            "updates": self.updates,
            "method": self.method,
            "statistic": self.statistic,
            "correct": self.guesses.correct,
            "guesses": self.guesses.guesses,
            "other_bounds": dict(self.other_bounds),
            "noise": dict(self.noise),
        }

    def plot(self, path: str | Path) -> None:
        """Draw the scores of canaries in and out, and the bound beside the claim, into a file.

        Args:
            path: File whose name ends in an image format, such as `.png`.

        Raises:
            ImportError: when matplotlib is not installed: `pip install keras-dp[audit]`.
        """
        plots.draw_audit(self, path)


def _table(rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows))
    lines = []
    for name, value in rows.items():
        indent = " " * (width + 2)
        lines += textwrap.wrap(
            value, _WIDTH, initial_indent=f"{name:<{width}}  ", subsequent_indent=indent
        )
    return lines
