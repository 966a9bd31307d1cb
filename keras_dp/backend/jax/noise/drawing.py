"""Random integers with a discrete Gaussian law, each at a position that settles its bits.

All arrays of an update lie one after the other in one stream of integers, and each begins with a
block of its own. A device that holds parts of arrays draws the stretches of the stream that belong
to them, and no more; what it draws there does not depend on how the arrays are cut.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from keras_dp.backend.discrete_table import (
    CELLS,
    INNER,
    PER_BLOCK,
    AliasTable,
    alias_table,
)
from keras_dp.backend.jax.noise import chacha
from keras_dp.types import Part

_CHUNK = 2**13  # blocks; what they need stays in the cache of a CPU
_CELL_BITS = CELLS.bit_length() - 1


class Stretches(NamedTuple):
    """Stretches of the stream, all of one length: where a part of an array lies.

    Attributes:
        starts: uint32 array, the position at which each of them begins.
        length: Number of integers in each.
        aligned: Whether each begins with a block.
    """

    starts: Any
    length: int
    aligned: bool

    @property
    def blocks(self) -> int:
        """The number of blocks that hold any of these stretches."""
        return -(-self.length // PER_BLOCK) + (not self.aligned)


def positions(shapes: list[tuple[int, ...]]) -> tuple[list[int], int]:
    """Return the position of each array's first number, and where the stream ends."""
    blocks = [-(-math.prod(shape) // PER_BLOCK) for shape in shapes]
    *bases, end = itertools.accumulate((PER_BLOCK * n for n in blocks), initial=0)
    return bases, end


def stretches_of(part: Part, size: tuple[int, ...], base: int) -> Stretches:
    """Return where a part of an array lies in the stream.

    Args:
        part: Which part of which array.
        size: The shape of the part.
        base: Position of the array's first number; a block begins there.
    """
    cut = [axis for axis, n in enumerate(size) if n != part.shape[axis]]
    last = max(cut, default=0)
    strides = [math.prod(part.shape[axis + 1 :]) for axis in range(len(size))]
    starts: Any = np.full(1, base, np.uint32)
    for axis in cut[-1:]:
        starts = starts + jnp.uint32(part.origin[axis] * strides[axis])
    for axis in range(last):
        rows = (part.origin[axis] + np.arange(size[axis], dtype=np.uint32)) * strides[axis]
        starts = (starts[:, None] + rows.astype(np.uint32)).reshape(-1)
    steps = [strides[axis] for axis in range(last)] + [size[a] * strides[a] for a in cut[-1:]]
    aligned = all(step % PER_BLOCK == 0 for step in steps)
    return Stretches(starts, math.prod(size[last:]), aligned)


def integers(key: Any, multipliers: Any, wanted: list[Stretches]) -> list[Any]:
    """Return the integers of some stretches: `x + INNER * y + multiplier * z`, from three draws.

    They are drawn in chunks of one size by a loop, so that neither what is compiled nor the memory
    taken besides the result grows with the model. The bits follow from key and position alone.

    Args:
        key: uint32 array of shape `(8,)`.
        multipliers: int32 array, one for each of the arrays.
        wanted: For each array, where its part lies.

    Returns:
        List of int32 arrays of shape `(stretches, length)`, one for each array.
    """
    starts = [jnp.asarray(each.starts, jnp.uint32) for each in wanted]
    shapes = tuple((len(each.starts), each.length, each.aligned) for each in wanted)
    return list(_integers(key, multipliers, starts, shapes))


@functools.partial(jax.jit, static_argnums=3)
def _integers(
    key: Any, multipliers: Any, starts: list[Any], shapes: tuple[tuple[int, int, bool], ...]
) -> list[Any]:
    wanted = [Stretches(s, length, ok) for s, (_, length, ok) in zip(starts, shapes, strict=True)]
    counts = [len(each.starts) * each.blocks for each in wanted]
    ends = np.cumsum(counts)
    size = max(1, min(_CHUNK, int(ends[-1])))
    find = _finder(wanted, ends - counts)
    table = alias_table()

    def chunk(first: Any) -> Any:
        places = jnp.minimum(first + jnp.arange(size, dtype=jnp.uint32), max(int(ends[-1]), 1) - 1)
        array, block = find(places)
        return _drawn(table, key, block, multipliers[array])

    chunks = -(-int(ends[-1]) // size)
    drawn = lax.map(chunk, size * jnp.arange(chunks, dtype=jnp.uint32)).reshape(-1)
    return [
        _cut(each, drawn[PER_BLOCK * (end - count) : PER_BLOCK * end])
        for each, end, count in zip(wanted, ends, counts, strict=True)
    ]


def _finder(wanted: list[Stretches], begins: Any) -> Any:
    """Return the function that tells, for places among all wanted blocks, which they are.

    It returns the number of the array, and the block's number in the stream.
    """
    starts = jnp.concatenate([each.starts for each in wanted])
    firsts = np.cumsum([0] + [len(each.starts) for each in wanted[:-1]])
    tables = [
        jnp.asarray(column, jnp.uint32)
        for column in (begins, firsts, [max(1, each.blocks) for each in wanted])
    ]

    def find(places: Any) -> tuple[Any, Any]:
        array = jnp.searchsorted(tables[0], places, side="right") - 1
        begin, first, blocks = (column[array] for column in tables)
        stretch, block = jnp.divmod(places - begin, blocks)
        return array, starts[first + stretch] // PER_BLOCK + block

    return find


def _cut(each: Stretches, drawn: Any) -> Any:
    """Return the stretches, from all integers of the blocks that hold them."""
    rows = drawn.reshape(len(each.starts), PER_BLOCK * each.blocks)
    if each.aligned:
        return rows[:, : each.length]
    return jax.vmap(lambda row, start: lax.dynamic_slice(row, (start,), (each.length,)))(
        rows, each.starts % PER_BLOCK
    )


def _drawn(table: AliasTable, key: Any, block: Any, multiplier: Any) -> Any:
    """Return the integers of some blocks, an int32 array of shape `(blocks, PER_BLOCK)`.

    A draw looks at 28 bits of its threshold. Once in 2^28 draws they are equal to those of the
    number that it compares, and 96 more bits are drawn: in a chunk in 2,700.

    Args:
        table: The table.
        key: uint32 array of shape `(8,)`.
        block: uint32 array, the blocks' numbers in the stream.
        multiplier: int32 array, what the last draw of each block is multiplied with.
    """
    words = chacha.blocks(key, block, (0, 0, 0))
    *fields, rest = (jnp.stack(words[place::PER_BLOCK]) for place in range(4))
    tens = [rest & 0x3FF, (rest >> 10) & 0x3FF, (rest >> 20) & 0x3FF]
    noise, undecided = _combined(table, fields, [[ten] for ten in tens], multiplier)

    def decided() -> Any:
        blocks = jnp.broadcast_to(block, noise.shape)
        more = chacha.blocks(key, blocks, (np.arange(PER_BLOCK, dtype=np.uint32)[:, None], 1, 0))
        pieces = [[ten, *more[3 * i : 3 * i + 3]] for i, ten in enumerate(tens)]
        return _combined(table, fields, pieces, multiplier)[0]

    return lax.cond(jnp.any(undecided), decided, lambda: noise).T


def _combined(
    table: AliasTable, fields: list[Any], pieces: list[list[Any]], multiplier: Any
) -> tuple[Any, Any]:
    """Return `x + INNER * y + multiplier * z`, and where one of the three is undecided."""
    draws = [draw(table, field, piece) for field, piece in zip(fields, pieces, strict=True)]
    (x, x_undecided), (y, y_undecided), (z, z_undecided) = draws
    return x + INNER * y + multiplier * z, x_undecided | y_undecided | z_undecided


def draw(table: AliasTable, field: Any, pieces: list[Any]) -> tuple[Any, Any]:
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
    cell = field & (CELLS - 1)
    found = _entry(table.alias, cell)
    thresholds = [found >> _CELL_BITS, *(_entry(t, cell) for t in table.pieces[: len(pieces)])]
    numbers = [field >> (_CELL_BITS + 1), *pieces]
    below, equal = jnp.zeros(cell.shape, bool), jnp.ones(cell.shape, bool)
    for number, threshold in zip(numbers, thresholds, strict=True):
        below = below | (equal & (number < threshold))
        equal = equal & (number == threshold)
    outcome = jnp.where(below, cell, found & (CELLS - 1)).astype(jnp.int32)
    return jnp.where((field >> _CELL_BITS) & 1 == 1, -outcome, outcome), equal


def _entry(entries: Any, cell: Any) -> Any:
    return jnp.asarray(entries).at[cell].get(mode="promise_in_bounds")
