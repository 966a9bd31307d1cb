"""One device, of which all variables must be."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_dp.backend.one_device import OneDevice, check_undistributed


class TorchDevice(OneDevice):
    """The device that Keras puts tensors on."""

    def misplaced(self, variables: Sequence[Any]) -> list[str]:
        """Refuse variables that lie on another device than new tensors do.

        Raises:
            ValueError: naming variables.
        """
        own = keras.ops.zeros(()).device
        others = [
            f"{variable.path!r} (on {variable.value.device})"
            for variable in variables
            if variable.value.device != own
        ]
        if others:
            raise ValueError(
                "All variables of the model and its optimizer must be on one device, "
                f"{own} here, where Keras puts new tensors. Received: {', '.join(others[:3])}. "
                "Build the model and call `fit` under the same `keras.device`."
            )
        return []


def placement() -> TorchDevice:
    """Return the placement on the one device.

    Raises:
        ValueError: under a `keras.distribution`.
    """
    check_undistributed()
    return TorchDevice()
