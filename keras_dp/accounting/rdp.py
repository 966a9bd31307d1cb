"""Renyi differential privacy: the curve of a composition and its two conversions to epsilon."""

import contextlib
import functools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from dp_accounting import DpEvent, UnsupportedEventError
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from numpy.typing import NDArray

Composition = tuple[tuple[DpEvent, int], ...]
"""Events, each with the number of times that it happened."""

ROUNDING = 1e-13
"""Added to the divergence per event: above the rounding error of dp-accounting's sums of terms
near one, which may come out too small and even negative."""

_LEAST_LOG = -700.0  # of a delta, so that it is not rounded to zero


@dataclass(frozen=True)
class Curve:
    """The Renyi divergence of a composition at each order.

    References:
        Mironov, 2017 (https://arxiv.org/abs/1702.07476).
    """

    orders: NDArray[np.float64]
    divergences: NDArray[np.float64]

    def epsilon(self, delta: float) -> float:
        """Convert by Proposition 12 of https://arxiv.org/abs/2004.00010, the newer way."""
        return float(compute_epsilon(self.orders, self.divergences, delta)[0])

    def deltas(self, epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a delta for each epsilon, by the same Proposition 12."""
        above = self.orders[:, None] - 1
        logs = above * (self.divergences[:, None] - epsilons + np.log1p(-1 / self.orders[:, None]))
        least = np.min(logs - np.log(self.orders[:, None]), axis=0)
        return np.exp(np.clip(least, _LEAST_LOG, 0.0))

    def classic_epsilon(self, delta: float) -> float:
        """Convert as older papers did: the least `rdp(a) + log(1/delta) / (a - 1)` over orders."""
        return float(np.min(self.divergences + math.log(1 / delta) / (self.orders - 1)))


def curve(composition: Composition, orders: tuple[float, ...] | None = None) -> Curve:
    """Return the curve of `composition` at `orders` (None: dp-accounting's own).

    Raises:
        ValueError: when an event has no Renyi analysis.
    """
    return together([of_equal(event, count, orders) for event, count in composition])


def of_equal(event: DpEvent, count: int, orders: tuple[float, ...] | None = None) -> Curve:
    """Return the curve of `count` equal events: their divergences add up."""
    one = _of_one(event, orders)
    return Curve(one.orders, count * one.divergences)


def together(curves: Sequence[Curve]) -> Curve:
    """Return the curve of all the compositions of `curves`, which have equal orders."""
    return Curve(curves[0].orders, np.sum([curve.divergences for curve in curves], axis=0))


@functools.lru_cache(maxsize=256)
def _of_one(event: DpEvent, orders: tuple[float, ...] | None) -> Curve:
    accountant = RdpAccountant(orders=orders)
    try:
        with _without_warnings():
            accountant.compose(event)
    except UnsupportedEventError as error:
        raise ValueError(_unknown(event)) from error
    divergences = np.where(np.isnan(accountant.rdp), np.inf, np.maximum(accountant.rdp, 0.0))
    return Curve(np.asarray(accountant.orders, dtype=np.float64), divergences + ROUNDING)


def _unknown(event: DpEvent) -> str:
    if isinstance(event, RepeatAndSelectDpEvent):
        return (
            "A search is counted by Renyi divergences, which the sampling of its runs must have: "
            f"'poisson', 'full_batch', 'shuffle', 'given' or a stream. Received: {event.event}."
        )
    return (
        "The accountants 'rdp' and 'rdp_classic' must know the sampling. "
        f"Received: {event}. Use accountant='pld'."
    )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    # dp-accounting warns for each order that it leaves out; leaving one out is on the safe side.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
