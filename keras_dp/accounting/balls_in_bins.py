"""The privacy loss of balls-in-bins sampling: each example in one random update of every epoch.

With `bins` updates in an epoch and noise `s` in units of the sensitivity, one epoch is dominated
by the pair `P = mean over t of N(e_t, s^2)` and `Q = N(0, s^2)`. Under `Q` the likelihood ratio
`P / Q` is a sum of `bins` independent terms `exp(z) / bins`, `z ~ N(-1 / (2 s^2), 1 / s^2)`.

The distribution of that sum is computed on a geometric grid. Wherever a value falls between two
grid points, its mass is split among them so that the mean stays: a mean-preserving spread. Both
hockey stick divergences, `E_Q (P/Q - e^epsilon)+` and `E_Q (1 - e^epsilon P/Q)+`, are convex in the
sum, and spreads of independent terms spread their sum, so every step can only raise them: the
result is an upper bound without sampling error.

References:
    Chua et al. 2024, Balls-and-Bins Sampling for DP-SGD (https://arxiv.org/abs/2412.16802), for the
    dominating pair; Choquette-Choo et al. 2024 (https://arxiv.org/abs/2410.06266); Feldman and
    Shenfeld 2026 (https://arxiv.org/abs/2602.17284), for numerical accounting of the same scheme.
"""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
from dp_accounting import DpEvent
from dp_accounting.pld.pld_pmf import DensePLDPmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm

Array = NDArray[np.float64]

_TAIL = 1e-24
"""Mass that is cut off on either side, and counted as infinite loss."""

LEAST_NOISE = 0.05
"""With less noise the likelihood ratio leaves the range of a double."""

_POINTS_PER_STDDEV = 40
_POINTS_PER_STDDEV_IF_ROUGH = 14
_MOST_POINTS = 4096


@dataclass(frozen=True)
class BallsInBinsDpEvent(DpEvent):
    """One epoch in which each example takes part in one update, drawn uniformly.

    Args:
        bins: Number of updates in the epoch.
        noise_multiplier: Standard deviation of the noise, in units of the sensitivity.
    """

    bins: int
    noise_multiplier: float


@dataclass(frozen=True)
class _Resolution:
    """The finest step, and the grid points that a standard deviation is given."""

    finest: float
    points: int

    def step(self, stddev: float) -> float:
        """Return the largest step that resolves the deviation, a power of two times the finest."""
        doublings = math.floor(math.log2(max(1.0, stddev / (self.points * self.finest))))
        return self.finest * float(2**doublings)


@dataclass(frozen=True)
class Ratio:
    """The distribution under `Q` of the likelihood ratio, or of a part of it.

    Attributes:
        resolution: How fine the grid may become.
        step: Logarithm of the grid's ratio.
        low: The first grid point is `exp(low * step)`.
        masses: Probability of each grid point.
        zero: Probability of the value 0.
        beyond: What the values beyond the grid contribute to the mean.
    """

    resolution: "_Resolution"
    step: float
    low: int
    masses: Array
    zero: float = 0.0
    beyond: float = 0.0

    @property
    def logs(self) -> Array:
        """Logarithms of the grid points."""
        return np.arange(self.low, self.low + len(self.masses), dtype=np.float64) * self.step

    @property
    def means(self) -> Array:
        """What each grid point contributes to the mean."""
        return self.masses * np.exp(self.logs)

    def divergences(self, orders: Array) -> Array:
        """Estimate the Renyi divergences of `P` from `Q`."""
        moments = logsumexp((orders[:, None] - 1) * self.logs, b=self.means, axis=1)
        return np.asarray(moments / (orders - 1), np.float64)


@functools.lru_cache(maxsize=64)
def ratio(event: BallsInBinsDpEvent, step: float, *, rough: bool = False) -> Ratio:
    """Return the distribution of the likelihood ratio of one epoch under `Q`.

    Args:
        event: The epoch.
        step: The grid's step is `step` times a power of two.
        rough: Whether a coarser grid will do: faster, a little larger losses.
    """
    points = _POINTS_PER_STDDEV_IF_ROUGH if rough else _POINTS_PER_STDDEV
    one = total = _term(event, _Resolution(step, points))
    for bit in f"{event.bins:b}"[1:]:  # as in exponentiation by squaring
        total = _add(total, total)
        if bit == "1":
            total = _add(total, one)
    return total


def loss_distribution(
    event: BallsInBinsDpEvent, step: float, finest: float | None = None, *, rough: bool = False
) -> PrivacyLossDistribution:
    """Return the privacy loss distribution of one epoch, on multiples of `step`.

    Args:
        event: The epoch.
        step: The step, a power of two times `finest`.
        finest: As for `ratio`, which may be known for it already; default `step`.
        rough: As for `ratio`.
    """
    one = ratio(event, finest or step, rough=rough)
    if one.step < step:
        one = ratio(event, step, rough=rough)
    stride = round(one.step / step)
    lowest, highest = one.low * stride, (one.low + len(one.masses) - 1) * stride
    return PrivacyLossDistribution(
        _pmf(lowest, _spaced(one.means, stride), one.beyond, step),
        _pmf(-highest, _spaced(one.masses, stride)[::-1], one.zero, step),
    )


def _pmf(lowest: int, probabilities: Array, infinity: float, step: float) -> DensePLDPmf:
    """Return a pessimistic PMF; what rounding lost of the probability counts as infinite loss."""
    lost = 1.0 - float(np.sum(probabilities))
    return DensePLDPmf(step, lowest, probabilities, max(infinity, lost, 0.0), True)


def _term(event: BallsInBinsDpEvent, resolution: _Resolution) -> Ratio:
    """Return one of the sum's terms, a log-normal variable with mean `1 / bins`."""
    noise_multiplier, bins = event.noise_multiplier, event.bins
    step = resolution.step(1 / noise_multiplier)
    reach = float(norm.isf(_TAIL)) / noise_multiplier
    half = 0.5 / noise_multiplier**2
    low = math.floor((-half - reach - math.log(bins)) / step)
    high = math.ceil((half + reach - math.log(bins)) / step)
    edges = np.arange(low, high + 1, dtype=np.float64) * step + math.log(bins)
    masses = _between((edges + half) * noise_multiplier)
    means = _between((edges - half) * noise_multiplier) / bins
    points = np.exp(edges - math.log(bins))
    inner = masses[1:-1]
    upper = np.clip((means[1:-1] / points[:-1] - inner) / math.expm1(step), 0.0, inner)
    spread = np.zeros(len(points))
    spread[:-1] += inner - upper
    spread[1:] += upper
    spread[0] += means[0] / points[0]
    spread[-1] += masses[-1]
    return Ratio(
        resolution,
        step,
        low,
        spread,
        zero=max(0.0, masses[0] - means[0] / points[0]),
        beyond=max(0.0, means[-1] - masses[-1] * points[-1]),
    )


def _between(edges: Array) -> Array:
    """Return the standard normal probability below, between and above the edges."""
    ends = np.concatenate([[-np.inf], edges, [np.inf]])
    lower, upper = ends[:-1], ends[1:]
    right = norm.sf(lower) - norm.sf(upper)
    return np.asarray(np.where(lower > 0, right, norm.cdf(upper) - norm.cdf(lower)), np.float64)


def _add(one: Ratio, other: Ratio) -> Ratio:
    """Return the distribution of the sum of two independent variables."""
    step = min(one.step, other.step)
    one, other = _refined(one, step), _refined(other, step)
    low = min(one.low, other.low)
    reach = math.ceil(math.log(2) / step) + 1
    high = max(r.low + len(r.masses) for r in (one, other)) + reach
    total = np.zeros(high - low)
    for gap in range(
        other.low - one.low - len(one.masses) + 1, other.low - one.low + len(other.masses)
    ):
        _add_pairs(total, low, one, other, gap)
    for single, rest in ((one, other.zero), (other, one.zero)):
        start = single.low - low
        total[start : start + len(single.masses)] += rest * single.masses
    zero, beyond = one.zero * other.zero, one.beyond + other.beyond
    return _sharpened(_trimmed(Ratio(one.resolution, step, low, total, zero, beyond)))


def _add_pairs(total: Array, low: int, one: Ratio, other: Ratio, gap: int) -> None:
    """Add all pairs of grid points whose places differ by `gap`."""
    first = max(one.low, other.low - gap)
    last = min(one.low + len(one.masses), other.low + len(other.masses) - gap)
    pairs = (
        one.masses[first - one.low : last - one.low]
        * other.masses[first + gap - other.low : last + gap - other.low]
    )
    smaller = math.exp(-abs(gap) * one.step)  # beside the larger, which is 1
    places = int(math.log1p(smaller) / one.step)
    weight = (smaller - math.expm1(places * one.step)) / (
        math.exp(places * one.step) * math.expm1(one.step)
    )
    weight = min(1.0, max(0.0, weight))
    start = first + max(0, gap) + places - low
    total[start : start + len(pairs)] += (1 - weight) * pairs
    total[start + 1 : start + 1 + len(pairs)] += weight * pairs


def _trimmed(ratio: Ratio) -> Ratio:
    """Cut off both tails, keeping probability and mean."""
    scale = (1.0 - ratio.zero) / np.sum(ratio.masses)  # the rounding errors of terms would add up
    ratio = replace(ratio, masses=ratio.masses * scale)
    points = np.exp(ratio.logs)
    kept = np.flatnonzero(
        (np.cumsum(ratio.masses) > _TAIL) & (np.cumsum(ratio.means[::-1])[::-1] > _TAIL)
    )
    first, last = kept[0], kept[-1]
    masses = ratio.masses[first : last + 1].copy()
    below, above = ratio.masses[:first], ratio.masses[last + 1 :]
    raised = np.sum(below * points[:first]) / points[first]
    masses[0] += raised
    masses[-1] += np.sum(above)
    return replace(
        ratio,
        low=ratio.low + int(first),
        masses=masses,
        zero=ratio.zero + float(np.sum(below) - raised),
        beyond=ratio.beyond + float(np.sum(above * (points[last + 1 :] - points[last]))),
    )


def _sharpened(ratio: Ratio) -> Ratio:
    """Refine the grid as the sum concentrates, while it stays short."""
    logs, masses = ratio.logs, ratio.masses / np.sum(ratio.masses)
    variance = np.sum(masses * logs**2) - np.sum(masses * logs) ** 2
    step = ratio.resolution.step(math.sqrt(max(variance, 0.0)))
    while ratio.step / step * len(masses) > _MOST_POINTS:
        step *= 2
    return _refined(ratio, min(ratio.step, step))


def _refined(ratio: Ratio, step: float) -> Ratio:
    stride = round(ratio.step / step)
    return replace(ratio, step=step, low=ratio.low * stride, masses=_spaced(ratio.masses, stride))


def _spaced(values: Array, stride: int) -> Array:
    """Put `stride - 1` zeros between the values."""
    spaced = np.zeros((len(values) - 1) * stride + 1)
    spaced[::stride] = values
    return spaced
