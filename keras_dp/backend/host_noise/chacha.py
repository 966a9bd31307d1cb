"""ChaCha20 in NumPy: random words that nobody can tell from true ones without the key."""

from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
_CONSTANTS = np.frombuffer(b"expand 32-byte k", dtype=np.uint32)
_ROUNDS = 20


def blocks(key: Words, counter: Words, nonce: tuple[Any, Any, Any]) -> Words:
    """Return the blocks for many counters at once.

    Args:
        key: uint32 array of shape `(8,)`.
        counter: uint32 array of any shape, one counter for each block.
        nonce: Three uint32 numbers, or arrays that fit the counters' shape. A counter must never
            meet the same key and nonce twice.

    Returns:
        uint32 array of shape `(16, *counter.shape)`, the words of the blocks.

    References:
        Bernstein 2008, ChaCha, a variant of Salsa20; RFC 8439, section 2.3.
    """
    start = np.empty((16, *counter.shape), np.uint32)
    for place, word in enumerate((*_CONSTANTS, *key, counter, *nonce)):
        start[place] = word
    a, b, c, d = start.reshape(4, 4, *counter.shape).copy()
    for _ in range(_ROUNDS // 2):
        _quarter_rounds(a, b, c, d)
        b, c, d = (_turned(row, by) for row, by in ((b, 1), (c, 2), (d, 3)))
        _quarter_rounds(a, b, c, d)
        b, c, d = (_turned(row, by) for row, by in ((b, 3), (c, 2), (d, 1)))
    return np.concatenate([a, b, c, d]) + start


def _turned(row: Words, by: int) -> Words:
    """Return a row of four words turned to the left, so that diagonals become columns."""
    return np.concatenate([row[by:], row[:by]])


def _quarter_rounds(a: Words, b: Words, c: Words, d: Words) -> None:
    """Mix the four columns of rows, in place."""
    for one, other, third, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        one += other
        third ^= one
        _rotate(third, by)


def _rotate(words: Words, by: int) -> None:
    above = words >> np.uint32(32 - by)
    words <<= np.uint32(by)
    words |= above
