"""The usual optimizers under the names of their private forms."""

from collections.abc import Mapping
from typing import Any, ClassVar

import keras

from keras_dp.optimizers.dp_optimizer import DPOptimizer


class _Named(DPOptimizer):
    """A `DPOptimizer` that makes its inner optimizer from its own arguments."""

    inner_class: ClassVar[type[keras.optimizers.Optimizer]]

    def __init__(
        self,
        learning_rate: Any = 0.001,
        *,
        clip_norm: float = 1.0,
        noise_multiplier: float | None = None,
        clipping: Any = "flat",
        noise: str = "gaussian",
        seed: int | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            self.inner_class(learning_rate=learning_rate, **kwargs),
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            clipping=clipping,
            noise=noise,
            seed=seed,
            name=name,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the inner optimizer's settings and those of the mechanism; never the seed."""
        return {**self.inner_optimizer.get_config(), "name": self.name, **self.privacy_config()}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> DPOptimizer:
        """Rebuild the optimizer from `get_config`'s dictionary."""
        rate = config["learning_rate"]
        if isinstance(rate, dict):
            rate = keras.saving.deserialize_keras_object(rate, custom_objects=custom_objects)
        return cls(**{**config, "learning_rate": rate})


@keras.saving.register_keras_serializable(package="keras_dp")
class DPSGD(_Named):
    """Differentially private stochastic gradient descent, with momentum if wanted.

    Args:
        learning_rate: Float, schedule or callable, default 0.001; steps count updates.
        clip_norm: Float above 0, default 1.0, see `DPOptimizer`.
        noise_multiplier: Float of at least 0, or `None` to calibrate, see `DPOptimizer`.
        clipping: The clip rule, see `DPOptimizer`.
        noise: `"gaussian"` (default) or `"discrete_gaussian"`, see `DPOptimizer`.
        seed: `None` or an integer, see `DPOptimizer`.
        name: Name of the optimizer.
        **kwargs: Further arguments of `keras.optimizers.SGD`: `momentum`, `nesterov`,
            `weight_decay`, `use_ema` and others.

    Privacy:
        As `DPOptimizer`; momentum works on noisy gradients and costs nothing.

    Example:
        >>> optimizer = keras_dp.optimizers.DPSGD(4.0, momentum=0.9, clip_norm=0.1)
        >>> optimizer.inner_optimizer.momentum
        0.9

    References:
        Abadi et al. 2016, Deep Learning with Differential Privacy, algorithm 1.
    """

    inner_class = keras.optimizers.SGD


@keras.saving.register_keras_serializable(package="keras_dp")
class DPAdam(_Named):
    """Adam on privatized gradients.

    Args:
        learning_rate: Float, schedule or callable, default 0.001; steps count updates.
        clip_norm: Float above 0, default 1.0, see `DPOptimizer`.
        noise_multiplier: Float of at least 0, or `None` to calibrate, see `DPOptimizer`.
        clipping: The clip rule, see `DPOptimizer`.
        noise: `"gaussian"` (default) or `"discrete_gaussian"`, see `DPOptimizer`.
        seed: `None` or an integer, see `DPOptimizer`.
        name: Name of the optimizer.
        **kwargs: Further arguments of `keras.optimizers.Adam`.

    Privacy:
        As `DPOptimizer`; the moments are functions of noisy gradients and cost nothing.

    Example:
        >>> keras_dp.optimizers.DPAdam(1e-3, clip_norm=1.0, noise_multiplier=1.1).noise_multiplier
        1.1

    References:
        Kingma and Ba 2015; Abadi et al. 2016.
    """

    inner_class = keras.optimizers.Adam


@keras.saving.register_keras_serializable(package="keras_dp")
class DPAdamW(_Named):
    """AdamW on privatized gradients; the weight decay depends on no data.

    Args:
        learning_rate: Float, schedule or callable, default 0.001; steps count updates.
        clip_norm: Float above 0, default 1.0, see `DPOptimizer`.
        noise_multiplier: Float of at least 0, or `None` to calibrate, see `DPOptimizer`.
        clipping: The clip rule, see `DPOptimizer`.
        noise: `"gaussian"` (default) or `"discrete_gaussian"`, see `DPOptimizer`.
        seed: `None` or an integer, see `DPOptimizer`.
        name: Name of the optimizer.
        **kwargs: Further arguments of `keras.optimizers.AdamW`, such as `weight_decay`.

    Privacy:
        As `DPOptimizer`.

    Example:
        >>> keras_dp.optimizers.DPAdamW(weight_decay=0.01).inner_optimizer.weight_decay
        0.01

    References:
        Loshchilov and Hutter 2019; Abadi et al. 2016.
    """

    inner_class = keras.optimizers.AdamW
