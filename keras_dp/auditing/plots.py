"""Pictures of audits, drawn with matplotlib if it is there."""

from pathlib import Path
from typing import Any

import numpy as np

_BINS = 40


def draw_audit(report: Any, path: str | Path) -> None:
    """Draw an `AuditReport` into a file.

    Args:
        report: The report.
        path: File whose name ends in an image format.

    Raises:
        ImportError: when matplotlib is not installed.
    """
    figure = _figure()
    scores, included = np.asarray(report.scores), np.asarray(report.included)
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    edges = np.histogram_bin_edges(scores, _BINS)
    for name, members in (("left out", ~included), ("took part", included)):
        left.hist(scores[members], edges, alpha=0.6, label=name)
    left.set(xlabel="score", ylabel="canaries", title=f"{len(scores)} canaries")
    left.legend()
    heights = [report.epsilon, report.claimed_epsilon]
    bars = right.bar(["lower bound", "claimed"], np.nan_to_num(heights, posinf=0.0))
    right.bar_label(bars, [f"{height:.3g}" for height in heights])
    right.set(ylabel="epsilon", title="refuted" if report.violated else "stands")
    figure.savefig(path)


def draw_roc(rates: Any, limit: Any, path: str | Path) -> None:
    """Draw an attack's ROC curve, with the limit that the claim sets, on logarithmic axes.

    Args:
        rates: False and true positive rates of the attack.
        limit: The largest true positive rate that the claim allows at each false positive rate, or
            `None` where there is no claim.
        path: File whose name ends in an image format.

    Raises:
        ImportError: when matplotlib is not installed.
    """
    figure = _figure()
    axes = figure.subplots()
    fpr, tpr = rates
    axes.loglog(fpr, tpr, label="attack")
    if limit is not None:
        axes.loglog(fpr, limit, "--", label="limit of the claim")
    axes.loglog(fpr, fpr, ":", label="guessing")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.legend()
    figure.savefig(path)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib. Install it with `pip install keras-dp[audit]`."
        ) from error
    return Figure(figsize=(9, 4), layout="constrained")
