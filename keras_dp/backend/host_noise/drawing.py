"""Random integers with a discrete Gaussian law, each at a position that settles its bits.

All arrays of an update lie one after the other in one stream of integers, and each begins with a
block of its own. The stream is that of `backend/jax/noise/drawing.py`, bit for bit.
"""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_dp.backend.discrete_table import (
    CELLS,
    INNER,
    LONGEST,
    PER_BLOCK,
    AliasTable,
    alias_table,
)
from keras_dp.backend.host_noise import chacha

Words = npt.NDArray[np.uint32]
Integers = npt.NDArray[np.int32]
_CHUNK = 2**13  # blocks; what they need stays in the caches
_CELL_BITS = CELLS.bit_length() - 1


def integers(key: Words, multipliers: list[int], sizes: list[int]) -> list[Integers]:
    """Return, for each array, its integers `x + INNER * y + multiplier * z`, from three draws.

    Args:
        key: uint32 array of shape `(8,)`.
        multipliers: One for each of the arrays.
        sizes: The number of entries of each.

    Raises:
        ValueError: for more than 2^32 numbers: the stream ends there.
    """
    counts = [-(-size // PER_BLOCK) for size in sizes]
    *begins, end = itertools.accumulate(counts, initial=0)
    if PER_BLOCK * end > LONGEST:
        raise ValueError(
            f"Discrete noise is drawn for at most {LONGEST} numbers in an update. Received: "
            f'{PER_BLOCK * end}. Use `noise="gaussian"`.'
        )
    drawn = []
    for begin, count, size, multiplier in zip(begins, counts, sizes, multipliers, strict=True):
        found = np.empty((count, PER_BLOCK), np.int32)
        for first in range(0, count, _CHUNK):
            last = min(first + _CHUNK, count)
            block = np.arange(begin + first, begin + last, dtype=np.uint32)
            found[first:last] = _drawn(key, block, np.int32(multiplier))
        drawn.append(found.reshape(-1)[:size])
    return drawn


def _drawn(key: Words, block: Words, multiplier: np.int32) -> Integers:
    """Return the integers of some blocks, an array of shape `(blocks, PER_BLOCK)`.

    A draw looks at 28 bits of its threshold. Once in 2^28 draws they are equal to those of the
    number that it compares, and 96 more bits are drawn.
    """
    table = alias_table()
    words = chacha.blocks(key, block, (0, 0, 0))
    *fields, rest = (words[place::PER_BLOCK] for place in range(4))
    tens = [rest >> np.uint32(10 * i) & np.uint32(0x3FF) for i in range(3)]
    noise, undecided = _combined(table, fields, [[ten] for ten in tens], multiplier)
    if undecided.any():
        blocks = np.broadcast_to(block, noise.shape)
        rows = np.arange(PER_BLOCK, dtype=np.uint32)[:, None]
        more = chacha.blocks(key, blocks, (rows, 1, 0))
        pieces = [[ten, *more[3 * i : 3 * i + 3]] for i, ten in enumerate(tens)]
        noise, _ = _combined(table, fields, pieces, multiplier)
    return noise.T


def _combined(
    table: AliasTable, fields: list[Words], pieces: list[list[Words]], multiplier: np.int32
) -> tuple[Integers, Any]:
    """Return `x + INNER * y + multiplier * z`, and where one of the three is undecided."""
    draws = [draw(table, field, piece) for field, piece in zip(fields, pieces, strict=True)]
    (x, x_undecided), (y, y_undecided), (z, z_undecided) = draws
    noise = x + np.int32(INNER) * y + multiplier * z
    return noise, x_undecided | y_undecided | z_undecided


def draw(table: AliasTable, field: Words, pieces: list[Words]) -> tuple[Integers, Any]:
    """Return draws of the discrete Gaussian of the table, and where they are undecided.

    Args:
        table: The table.
        field: uint32 array of random words: 13 bits for the cell, one for the sign, and the first
            18 bits of the number that is compared with the cell's threshold.
        pieces: List of uint32 arrays, the next bits of that number: 10, 32, 32 and 32, as many
            of them as there are.

    Returns:
        int32 array, and a boolean one: whether number and threshold are equal as far as they go.
    """
    cell = field & np.uint32(CELLS - 1)
    found = table.alias[cell]
    thresholds = [found >> np.uint32(_CELL_BITS), *(t[cell] for t in table.pieces[: len(pieces)])]
    numbers = [field >> np.uint32(_CELL_BITS + 1), *pieces]
    below, equal = np.zeros(cell.shape, bool), np.ones(cell.shape, bool)
    for number, threshold in zip(numbers, thresholds, strict=True):
        below |= equal & (number < threshold)
        equal &= number == threshold
    outcome = np.where(below, cell, found & np.uint32(CELLS - 1)).astype(np.int32)
    negative = (field >> np.uint32(_CELL_BITS)) & np.uint32(1) == 1
    return np.where(negative, -outcome, outcome), equal
