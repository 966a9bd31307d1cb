"""A discrete Gaussian as an alias table, computed in whole numbers.

Walker's method: the table has as many cells as the law has outcomes. A draw picks a cell and a
number below 1; below the cell's threshold the outcome is the cell's own, else it is its alias. So
a draw takes two look-ups and always the same time, and the probability of every outcome is a
whole number of units of `1 / (CELLS * 2**BITS)`, known exactly.

References:
    Walker 1977, An Efficient Method for Generating Discrete Random Variables with General
    Distributions; Vose 1991, A Linear Algorithm for Generating Random Numbers with a Given
    Distribution.
"""

import functools
from decimal import Decimal, localcontext
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SIGMA = 656
CELLS = 2**13
"""Outcomes 0 to `CELLS - 1`: the tail is cut at 12.4 standard deviations."""

PIECES = (18, 10, 32, 32, 32)
"""Bits of a threshold, from the highest down, as a draw compares them."""

BITS = sum(PIECES)
INNER = 327
"""At most `sqrt((SIGMA / 2)**2 - 1)`, so that two draws, the second of them times this, overlap as
the proof in docs/noise.md asks."""

PER_BLOCK = 4
"""Integers that one block of 16 random words gives."""

LONGEST = 2**32
"""Positions in the stream of integers of an update."""

_DIGITS = 70


class AliasTable(NamedTuple):
    """The cells, each field with one entry for each.

    Attributes:
        alias: uint32 array: in the 13 lowest bits, the outcome that a cell gives from its
            threshold on; above them, the first piece of the threshold.
        pieces: Tuple of uint32 arrays, the other pieces of the threshold.
    """

    alias: npt.NDArray[np.uint32]
    pieces: tuple[npt.NDArray[np.uint32], ...]


@functools.cache
def alias_table() -> AliasTable:
    """Return the table of `|X|`, where X is the discrete Gaussian of parameter `SIGMA`."""
    thresholds, aliases = _cells(weights())
    # A cell that is all its own has a threshold of 1, which needs a bit more: its alias is itself.
    left = [min(threshold, (1 << BITS) - 1) for threshold in thresholds]
    pieces = []
    for bits in reversed(PIECES):
        pieces.append(np.array([threshold % (1 << bits) for threshold in left], np.uint32))
        left = [threshold >> bits for threshold in left]
    *others, top = pieces
    return AliasTable(np.array(aliases, np.uint32) + top * CELLS, tuple(reversed(others)))


def weights() -> list[int]:
    """Return the probabilities of 0, 1, ... in units of `1 / (CELLS * 2**BITS)`.

    Rounded down, and what that leaves given to 0.
    """
    units = CELLS << BITS
    with localcontext() as context:
        context.prec = _DIGITS
        squares = (Decimal(outcome * outcome) for outcome in range(CELLS))
        law = [2 * (-square / (2 * SIGMA * SIGMA)).exp() for square in squares]
        law[0] /= 2
        total = sum(law)
        rounded = [int(units * probability / total) for probability in law]
    rounded[0] += units - sum(rounded)
    return rounded


def _cells(left: list[int]) -> tuple[list[int], list[int]]:
    """Spread the weights over cells of one size each, at most two outcomes in a cell."""
    size = 1 << BITS
    thresholds, aliases = [size] * CELLS, list(range(CELLS))
    small = [outcome for outcome in range(CELLS) if left[outcome] < size]
    large = [outcome for outcome in range(CELLS) if left[outcome] >= size]
    while small:
        cell, donor = small.pop(), large[-1]
        thresholds[cell], aliases[cell] = left[cell], donor
        left[donor] -= size - left[cell]
        if left[donor] < size:
            small.append(large.pop())
    return thresholds, aliases
