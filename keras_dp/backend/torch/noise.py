"""Noise for tensors of PyTorch, drawn on the host."""

from typing import Any

import torch

from keras_dp.backend import host_noise
from keras_dp.types import ByDevice


def add_noise(
    kind: str, sums: list[Any], key: Any, stddevs: list[Any], by_device: ByDevice | None
) -> list[Any]:
    """Add noise of one kind to the sums; see `keras_dp.noise.add_noise`.

    Args:
        kind: A name in `NOISE_KEY_BYTES`.
        sums: List of tensors.
        key: uint32 array with as many bytes as `NOISE_KEY_BYTES` says.
        stddevs: List of floats, one for each of the sums.
        by_device: `None`: there is one device.
    """
    del by_device
    totals = [torch.as_tensor(total) for total in sums]
    known = [total.detach().to("cpu", torch.float32).numpy() for total in totals]
    noisy = host_noise.noisy(kind, known, key, [float(stddev) for stddev in stddevs])
    return [
        torch.tensor(each, device=total.device) for each, total in zip(noisy, totals, strict=True)
    ]
