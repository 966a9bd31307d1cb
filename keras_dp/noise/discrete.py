"""Discrete Gaussian noise on a lattice, which floating-point attacks cannot see through.

A released number is a lattice point: `step * (round(sum / step) + noise)`, with whole-number
arithmetic in between, so the set of possible outcomes does not depend on the data. The noise is
`x + INNER * y + multiplier * z` for three draws from one table: a sum of discrete Gaussians whose
scales lie close enough together is a discrete Gaussian again, up to one part in 2^110. The proof
is in docs/noise.md.

References:
    Canonne, Kamath and Steinke 2020, The Discrete Gaussian for Differential Privacy; Micciancio
    and Walter 2017, Gaussian Sampling over the Integers: Efficient, Generic, Constant-Time;
    Mironov 2012, On Significance of the Least Significant Bits for Differential Privacy.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from keras_dp.noise import chacha
from keras_dp.noise.table import CELLS, SIGMA, AliasTable, alias_table
from keras_dp.plan import LATTICE

KEY_BYTES = 32
INNER = 327
"""At most `sqrt((SIGMA / 2)**2 - 1)`, so that the first two draws overlap as the proof asks."""

_CHUNK = 2**13  # blocks; what they need stays in the cache of a CPU
_PER_BLOCK = 4
_STEPS = LATTICE.bit_length()  # a standard deviation has 2**(_STEPS - 1) to 2**_STEPS steps
_LEAST = _STEPS - 125  # exponent of the least standard deviation; a smaller one is raised to it
_FARTHEST = 2.0**46
_HALF = 16
_CELL_BITS = CELLS.bit_length() - 1


class Lattice(NamedTuple):
    """The lattice for one standard deviation, and the noise that has it.

    Attributes:
        step: Float, a power of two, so that a sum is divided by it without rounding.
        inverse: Float, `1 / step`.
        multiplier: int32, what the last of the three draws is multiplied with.
    """

    step: Any
    inverse: Any
    multiplier: Any


def add(sums: list[Any], key: Any, stddevs: list[Any]) -> list[Any]:
    """Return the sums on the lattice, with discrete Gaussian noise.

    Args:
        sums: List of arrays.
        key: uint32 array of shape `(8,)`.
        stddevs: List of floats. Neighbours that share an object share a lattice.

    Privacy:
        Every number is one that the Gaussian mechanism with this standard deviation, applied to
        the rounded sums, could have given with the same probability up to one part in 2^110, but
        for a probability of 2^-114. Rounding moves the sums of two neighbouring data sets apart by
        `step <= stddev / LATTICE` at most, in each number.
    """
    if not sums:
        return []
    runs = [list(run) for _, run in itertools.groupby(range(len(sums)), lambda i: id(stddevs[i]))]
    lattices = [lattice(stddevs[run[0]]) for run in runs]
    counts = tuple(sum(_size(sums[i]) for i in run) for run in runs)
    drawn = integers(key, jnp.stack([found.multiplier for found in lattices]), counts)
    noisy = []
    for run, found, noise in zip(runs, lattices, drawn, strict=True):
        end = 0
        for total, stddev in ((sums[i].astype(jnp.float32), stddevs[i]) for i in run):
            start, end = end, end + _size(total)
            released = release(total, noise[start:end].reshape(total.shape), found)
            # Noise that is not finite must not come out as little noise.
            released = jnp.where(jnp.isfinite(stddev), released, jnp.nan)
            noisy.append(jnp.where(stddev == 0, total, released))
    return noisy


def lattice(stddev: Any) -> Lattice:
    """Return the lattice for a standard deviation, a float.

    It has `LATTICE` to `2 * LATTICE` steps in a standard deviation. The noise has at least the
    standard deviation asked for, and at most 6e-5 of it more, whatever float32 rounds.
    """
    mantissa, exponent = jnp.frexp(jnp.asarray(stddev, jnp.float32))
    exponent = jnp.maximum(exponent, _LEAST)
    multiplier = jnp.ceil(mantissa * (2**_STEPS / SIGMA)) + 1
    return Lattice(
        _power_of_two(exponent - _STEPS),
        _power_of_two(_STEPS - exponent),
        multiplier.astype(jnp.int32),
    )


def _power_of_two(exponent: Any) -> Any:
    """Return `2**exponent` in float32, exactly, for exponents from -126 to 127."""
    return lax.bitcast_convert_type((exponent.astype(jnp.int32) + 127) << 23, jnp.float32)


def release(total: Any, noise: Any, found: Lattice) -> Any:
    """Return `step * (round(total / step) + noise)` in float32.

    The integers are added exactly, in two parts of which the lower has 16 bits. Only their sum is
    turned into a float: what rounding does then depends on nothing but the released integer.

    Args:
        total: float32 array.
        noise: int32 array of the same shape.
        found: The lattice.
    """
    scaled = jnp.round(total * found.inverse)
    scaled = jnp.clip(scaled, -_FARTHEST, _FARTHEST)  # moves no two sums apart
    above = jnp.floor(scaled * 2.0**-_HALF)
    low = (scaled - above * 2.0**_HALF).astype(jnp.int32) + (noise & (2**_HALF - 1))
    high = above.astype(jnp.int32) + (noise >> _HALF) + (low >> _HALF)
    low = low & (2**_HALF - 1)
    return (high.astype(jnp.float32) * 2.0**_HALF + low.astype(jnp.float32)) * found.step


@functools.partial(jax.jit, static_argnums=2)
def integers(key: Any, multipliers: Any, counts: tuple[int, ...]) -> list[Any]:
    """Return the noise, in steps of the lattice.

    It is drawn in chunks of one size by a loop, so that neither what is compiled nor the memory
    taken besides the result grows with the model. The bits follow from key and counts alone.

    Args:
        key: uint32 array of shape `(8,)`.
        multipliers: int32 array, one for each of the counts.
        counts: How many integers to draw with each of the multipliers.

    Returns:
        List of int32 arrays, one for each of the counts.
    """
    blocks = max(1, min(_CHUNK, -(-max(counts) // _PER_BLOCK)))
    size = _PER_BLOCK * blocks
    chunks = [-(-count // size) for count in counts]
    each = jnp.concatenate(
        [jnp.broadcast_to(m, n) for m, n in zip(multipliers, chunks, strict=True)]
    )
    numbers = jnp.arange(sum(chunks), dtype=jnp.uint32)
    table = alias_table()
    drawn = lax.map(lambda one: _chunk(table, key, one[0], one[1], blocks), (numbers, each))
    flat = drawn.reshape(-1)
    starts = itertools.accumulate(chunks, initial=0)
    return [flat[size * at : size * at + n] for at, n in zip(starts, counts, strict=False)]


def _chunk(table: AliasTable, key: Any, number: Any, multiplier: Any, blocks: int) -> Any:
    """Return an int32 array of shape `(_PER_BLOCK, blocks)`.

    A draw looks at 28 bits of its threshold. Once in 2^28 draws they are equal to those of the
    number that it compares, and 96 more bits are drawn: in a chunk in 2,700.
    """
    words = chacha.blocks(key, jnp.arange(blocks, dtype=jnp.uint32), (number, 0, 0))
    *fields, rest = (jnp.stack(words[place::_PER_BLOCK]) for place in range(4))
    tens = [rest & 0x3FF, (rest >> 10) & 0x3FF, (rest >> 20) & 0x3FF]
    noise, undecided = _combined(table, fields, [[ten] for ten in tens], multiplier)

    def decided() -> Any:
        counters = jnp.arange(noise.size, dtype=jnp.uint32).reshape(noise.shape)
        more = chacha.blocks(key, counters, (number, 1, 0))
        pieces = [[ten, *more[3 * i : 3 * i + 3]] for i, ten in enumerate(tens)]
        return _combined(table, fields, pieces, multiplier)[0]

    return lax.cond(jnp.any(undecided), decided, lambda: noise)


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


def _size(total: Any) -> int:
    return math.prod(total.shape)
