"""The best of a random number of runs, from its definition: what the tests compare with."""

import functools
import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln, logsumexp
from scipy.stats import norm

LAWS = [(1.5, 0.0), (10, 0.0), (3, 0.5), (2, 1.0), (10, 1.0), (30, 1.0), (4, 3.0)]
POISSON = [(1.0, math.inf), (3, math.inf), (8, math.inf)]


@functools.cache
def gamma(mean, shape):
    """Solve for the parameter by the series of the distribution's mean."""

    def gap(value):
        return float(np.sum(np.arange(1, 20_000) * law(mean, shape, value)[1:])) - mean

    return brentq(gap, 1e-3, 1 - 1e-9, xtol=1e-13)


def law(mean, shape, value=None):
    """Return P(K = k) for k = 0, 1, .., 19999, by definition 1 of Papernot and Steinke."""
    k = np.arange(20_000)
    if shape == math.inf:
        return np.exp(k * math.log(mean) - mean - gammaln(k + 1))
    value = gamma(mean, shape) if value is None else value
    with np.errstate(divide="ignore"):
        logs = k * math.log1p(-value) + (
            gammaln(k + shape) - gammaln(shape) - gammaln(k + 1) if shape else -np.log(k)
        )
    logs[0] = -math.inf
    return np.exp(logs - logsumexp(logs))


def best(outcomes, numbers):
    """Return the probabilities of the last of K outcomes in the order of an array."""
    below = np.clip(np.concatenate([[0.0], np.cumsum(outcomes)]), 0.0, 1.0)
    used = np.flatnonzero(numbers > 1e-13)
    powers = sum(numbers[k] * below**k for k in used)
    return np.concatenate([[numbers[0]], np.diff(powers)])


def divergence(one, other, order):
    """Return the Renyi divergence of two arrays of probabilities."""
    both = (one > 0) & (other > 0)
    logs = order * np.log(one[both]) + (1 - order) * np.log(other[both])
    return float(logsumexp(logs)) / (order - 1)


def theorem(orders, divergences, mean, shape):
    """Return the bounds of theorem 2 of Papernot and Steinke at each order."""
    halting = -math.log(gamma(mean, shape))
    constant = (1 + shape) * np.min((1 - 1 / orders) * divergences + halting / orders)
    return divergences + math.log(mean) / (orders - 1) + constant


def theorem_6(orders, divergences, deltas, mean):
    """Return the bounds of theorem 6 there, from deltas at epsilon `log(1 + 1 / (order - 1))`."""
    return divergences + mean * deltas + math.log(mean) / (orders - 1)


def gaussian_outcomes(noise, rate=1.0, points=6001):
    """Return the outcomes of a sampled Gaussian mechanism without and with an example, finely."""
    edges = np.linspace(-12 * noise, 1 + 12 * noise, points)
    without = np.diff(norm.cdf(edges, 0, noise))
    shifted = np.diff(norm.cdf(edges, 1, noise))
    return without, (1 - rate) * without + rate * shifted


def delta(one, other, epsilon):
    """Return the least delta at epsilon for two arrays of probabilities, in both directions."""
    gaps = (one - math.exp(epsilon) * other, other - math.exp(epsilon) * one)
    return max(float(np.sum(np.maximum(0.0, gap))) for gap in gaps)
