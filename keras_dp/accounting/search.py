"""Two searches for the edge of a budget: a quick one for where it lies, an exact one for its side.

dp-accounting's `calibrate_dp_mechanism` is not used. It calls one expensive accountant from a wide
bracket, which takes several times as long, and for whole numbers it may return the neighbour of the
largest one that fits.
"""

import math
from collections.abc import Callable

from scipy.optimize import brentq

Gap = Callable[[float], float]
"""Log of epsilon over its target as a function of noise or updates: at most 0 where it fits."""

_CAP = 50.0
_BISECT_AFTER = 8


def gap(epsilon: float, target: float) -> float:
    """Return `log(epsilon / target)`, positive exactly when `epsilon > target`.

    There is no tolerance: the sign comes from the comparison, not from the rounded logarithm.
    """
    if epsilon > target:
        return min(_CAP, max(math.log(epsilon / target), 1e-12)) if epsilon < math.inf else _CAP
    return max(-_CAP, math.log(epsilon / target)) if epsilon > 0 else -_CAP


def estimate(gap_at: Gap, low: float, high: float) -> tuple[float, float]:
    """Return about where `gap_at` crosses zero, and its slope there per unit of the logarithm.

    The gap must have different signs at `low` and `high`, both above 0.
    """
    seen: list[tuple[float, float]] = []

    def at(position: float) -> float:
        seen.append((position, gap_at(math.exp(position))))
        return seen[-1][1]

    root = float(brentq(at, math.log(low), math.log(high), xtol=1e-5))
    return math.exp(root), _slope_near(root, seen, rising=seen[0][1] < seen[1][1])


def _slope_near(root: float, seen: list[tuple[float, float]], *, rising: bool) -> float:
    near, *others = sorted(seen, key=lambda point: abs(point[0] - root))
    for far in others:
        if (
            abs(far[0] - near[0]) > 1e-4
            and (far[1] - near[1]) * (far[0] - near[0]) * (1 if rising else -1) > 0
        ):
            return (far[1] - near[1]) / (far[0] - near[0])
    return 1.0 if rising else -1.0


def edge(
    gap_at: Callable[[int], float],
    start: int,
    slope: float,
    *,
    upward: bool,
    low: int = 0,
    high: int | None = None,
) -> int:
    """Return the whole number that fits whose neighbour does not: both were evaluated or known.

    It follows the secant in the logarithm, and bisects when that does not close in.

    Args:
        gap_at: The gap at a whole number of at least 1.
        start: Where to begin, from `estimate`.
        slope: The gap's slope there per unit of the logarithm, from `estimate`.
        upward: Whether larger numbers fit (noise) or smaller ones (updates).
        low: A number known to lie below the edge: it fits exactly when `upward` is false.
        high: A number known to lie above the edge, if there is one.
    """
    probe, last, tries = start, None, 0
    while high is None or high - low > 1:
        point = math.log(probe), gap_at(probe)
        if (point[1] <= 0) == upward:
            high = probe
        else:
            low = probe
        slope = _slope(last, point, slope)
        last, tries = point, tries + 1
        if high is not None and tries > _BISECT_AFTER:
            probe = (low + high) // 2
        else:
            probe = _crossing(point, slope, upward, low, high)
    return high if upward else low


def _slope(last: tuple[float, float] | None, point: tuple[float, float], fallback: float) -> float:
    if last is None or last[0] == point[0] or abs(last[1]) == _CAP or abs(point[1]) == _CAP:
        return fallback
    slope = (point[1] - last[1]) / (point[0] - last[0])
    return slope if slope * fallback > 0 else fallback


def _crossing(
    point: tuple[float, float], slope: float, upward: bool, low: int, high: int | None
) -> int:
    """Return where the line through `point` crosses zero, strictly between `low` and `high`."""
    crossing = math.exp(point[0] - max(-1.0, min(1.0, point[1] / slope)))
    probe = max(math.ceil(crossing) if upward else math.floor(crossing), low + 1)
    return probe if high is None else min(probe, high - 1)
