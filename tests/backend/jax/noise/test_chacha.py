"""ChaCha20 against the vectors of its standard."""

import jax.numpy as jnp
import numpy as np

from keras_dp.backend.jax.noise import chacha

# RFC 8439, section 2.3.2: key 00 01 .. 1f, nonce 00 00 00 09 00 00 00 4a 00 00 00 00, counter 1.
KEY = np.frombuffer(bytes(range(32)), np.uint32)
NONCE = tuple(np.frombuffer(bytes.fromhex("000000090000004a00000000"), np.uint32))
BLOCK = """
    e4e7f110 15593bd1 1fdd0f50 c47120a3 c7f4d1c7 0368c033 9aaa2204 4e6cd4c3
    466482d2 09aa9f07 05d7c214 a2028bd9 d19c12b5 b94e16de e883d0cb 4e3c50a2
"""


def test_a_block_equals_the_published_one():
    words = chacha.blocks(KEY, jnp.array([1], jnp.uint32), NONCE)
    assert [f"{int(word[0]):08x}" for word in words] == BLOCK.split()


def test_the_block_of_a_zero_key_equals_the_published_one():
    """RFC 8439, appendix A.1, test vector 1."""
    words = chacha.blocks(np.zeros(8, np.uint32), jnp.zeros((2, 3), jnp.uint32), (0, 0, 0))
    keystream = np.stack(words)[:, 1, 2].tobytes().hex()
    assert keystream.startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")


def test_blocks_of_many_counters_are_those_of_each():
    many = np.stack(chacha.blocks(KEY, jnp.arange(5, dtype=jnp.uint32), NONCE))
    for counter in range(5):
        one = np.stack(chacha.blocks(KEY, jnp.array(counter, jnp.uint32), NONCE))
        np.testing.assert_array_equal(many[:, counter], one)
    assert len(np.unique(many)) == many.size
