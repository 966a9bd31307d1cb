"""Renyi differential privacy: the curve of a composition and its two conversions to epsilon."""

import contextlib
import functools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from dp_accounting import DpEvent, UnsupportedEventError
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from numpy.typing import NDArray

Composition = tuple[tuple[DpEvent, int], ...]
"""Events, each with the number of times that it happened."""

_ROUNDING = 1e-13
"""Added to the divergence per event: above the rounding error of dp-accounting's sums of terms
near one, which may come out too small and even negative."""


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
        raise ValueError(
            "The accountants 'rdp' and 'rdp_classic' must know the sampling. "
            f"Received: {event}. Use accountant='pld'."
        ) from error
    divergences = np.where(np.isnan(accountant.rdp), np.inf, np.maximum(accountant.rdp, 0.0))
    return Curve(np.asarray(accountant.orders, dtype=np.float64), divergences + _ROUNDING)


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
