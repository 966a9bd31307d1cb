"""Where randomness comes from: the operating system, or a seed that the user chose.

A fresh key is made for every update and handed over; it is never stored, saved or logged, so a
published model cannot give its noise away. `keras.utils.set_random_seed` and NumPy's global state
have no part in it.
"""

import hashlib
import secrets


def update_key(seed: int | None, purpose: str, update: int, size: int) -> bytes:
    """Return `size` secret bytes for one purpose in one update.

    Args:
        seed: `None` for the operating system's entropy (every call gives new bytes), or an integer
            from which the bytes follow: the same for the same seed, purpose and update.
        purpose: What the bytes are for, such as `"noise"` or `"sampling"`: different purposes
            give unrelated bytes.
        update: Number of updates made before this one, over the whole life of the model, so that
            a second `fit` or a resumed run does not repeat a key.
        size: Number of bytes, at most 64.

    Privacy:
        With a seed, whoever knows it can compute the noise and subtract it.
    """
    if seed is None:
        return secrets.token_bytes(size)
    message = f"keras_dp/{purpose}/{seed}/{update}".encode()
    return hashlib.blake2b(message, digest_size=size).digest()
