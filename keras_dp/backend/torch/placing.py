"""One device, of which all variables must be."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_dp.backend.one_device import OneDevice, check_undistributed


class TorchDevice(OneDevice):
    """The device that Keras puts tensors on."""

    def misplaced(self, variables: Sequence[Any]) -> list[str]:
        """Return the paths of variables that lie on another device than new tensors do."""
        own = keras.ops.zeros(()).device
        return [
            f"{variable.path!r} (on {variable.value.device}, not {own})"
            for variable in variables
            if variable.value.device != own
        ]


def placement() -> TorchDevice:
    """Return the placement on the one device.

    Raises:
        ValueError: under a `keras.distribution`.
    """
    check_undistributed()
    return TorchDevice()
