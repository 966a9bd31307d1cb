"""Noise on the device, of either kind."""

from typing import Any

from keras_dp.backend.jax.noise import discrete, gaussian
from keras_dp.types import ByDevice

_KINDS: dict[str, Any] = {"gaussian": gaussian, "discrete_gaussian": discrete}
NOISE_KEY_BYTES = {name: kind.KEY_BYTES for name, kind in _KINDS.items()}
"""Bytes that the key of an update's noise has, for each kind of noise."""


def add_noise(
    kind: str, sums: list[Any], key: Any, stddevs: list[Any], by_device: ByDevice | None
) -> list[Any]:
    """Add noise of one kind to the sums; see `keras_dp.noise.add_noise`.

    Args:
        kind: A name in `NOISE_KEY_BYTES`.
        sums: List of float32 arrays.
        key: uint32 array with as many bytes as `NOISE_KEY_BYTES` says.
        stddevs: List of floats, one for each of the sums.
        by_device: Lets every device draw noise for the parts of the sums that it holds.
    """
    added: list[Any] = _KINDS[kind].add(sums, key, stddevs, by_device)
    return added
