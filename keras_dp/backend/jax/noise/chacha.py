"""ChaCha20: random words that nobody can tell from true ones without the 256 bits of the key."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

_CONSTANTS = np.frombuffer(b"expand 32-byte k", dtype=np.uint32)
_ROUNDS = 20
_COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
_DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def blocks(key: Any, counter: Any, nonce: tuple[Any, Any, Any]) -> list[Any]:
    """Return the blocks for many counters at once.

    Args:
        key: uint32 array of shape `(8,)`.
        counter: uint32 array of any shape, one counter for each block.
        nonce: Three uint32 numbers. A counter must never meet the same key and nonce twice.

    Returns:
        List of 16 uint32 arrays of the counters' shape, the words of the blocks.

    References:
        Bernstein 2008, ChaCha, a variant of Salsa20; RFC 8439, section 2.3.
    """
    words = [*_CONSTANTS, *key, counter, *nonce]
    start = [jnp.broadcast_to(jnp.asarray(word, jnp.uint32), counter.shape) for word in words]
    end = lax.fori_loop(0, _ROUNDS // 2, lambda _, state: _double_round(state), start)
    return [first + last for first, last in zip(start, end, strict=True)]


def _double_round(state: list[Any]) -> list[Any]:
    state = list(state)
    for places in (*_COLUMNS, *_DIAGONALS):
        quarter = _quarter_round(*(state[place] for place in places))
        for place, word in zip(places, quarter, strict=True):
            state[place] = word
    return state


def _quarter_round(a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any, Any, Any]:
    a = a + b
    d = _rotated(d ^ a, 16)
    c = c + d
    b = _rotated(b ^ c, 12)
    a = a + b
    d = _rotated(d ^ a, 8)
    c = c + d
    b = _rotated(b ^ c, 7)
    return a, b, c, d


def _rotated(word: Any, by: int) -> Any:
    return (word << by) | (word >> (32 - by))
