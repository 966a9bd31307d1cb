"""Training metrics with noise, charged to the ledger."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_dp import validation

MetricFunction = Callable[[Any, Any], Any]


@dataclass(frozen=True, kw_only=True)
class PrivateMetrics:
    """Shows noised means in the training logs, in place of exact ones.

    Every update releases, beside the sum of clipped gradients, the sum of each example's loss and
    metrics, cut to their bounds, with Gaussian noise. What the logs of an epoch show are means of
    these sums, `low + (high - low) (1/2 + sum / (updates * batch_size))`, within the bounds.

    Args:
        metrics: Dict from a name to a function of `(y_true, y_pred)` that gives a value for each
            example, such as `keras.metrics.sparse_categorical_accuracy`. Default none. Each is
            called on one example at a time, so it cannot mix them.
        bounds: Dict from a metric's name to its lowest and highest value; what lies outside is
            cut. Default (0, 1). The loss is named `"loss"`, default (0, 5).
        noise_stddev: Float above 0, standard deviation of the noise on each sum, where an example
            adds at most 1/2; `None` (default): a twentieth of the batch size, which shifts the
            mean of an epoch of T updates by about `0.05 (high - low) / sqrt(T)`.

    Raises:
        ValueError: for bad settings.

    Privacy:
        An update's gradient sum and its k metrics are one release. The noise multiplier of the
        gradient sum is raised to `(noise_multiplier^-2 - k / (2 noise_stddev)^2)^(-1/2)`, so that
        both together cost what `noise_multiplier` says, see Andrew et al. 2021, theorem 1. The
        means are divided by the declared batch size, for the number of examples drawn is private.
        Metrics of `evaluate` and of validation data stay exact.

    Example:
        >>> keras_dp.PrivateMetrics(
        ...     metrics={"accuracy": keras.metrics.sparse_categorical_accuracy}
        ... ).names
        ('loss', 'accuracy')
    """

    metrics: Mapping[str, MetricFunction] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    noise_stddev: float | None = None

    def __post_init__(self) -> None:
        """Refuse bad settings at once."""
        if "loss" in self.metrics:
            raise ValueError("`metrics` must not have the name 'loss': the loss is always shown.")
        for name, function in self.metrics.items():
            if not callable(function):
                raise ValueError(
                    f"`metrics` must be functions of (y_true, y_pred). Received for {name!r}: "
                    f"{function!r}. Pass a function such as keras.metrics.binary_accuracy."
                )
        for name, (low, high) in self.bounds.items():
            validation.one_of("bounds", name, self.names)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(
                    f"`bounds` must be finite and in order. Received for {name!r}: {(low, high)}."
                )
        if self.noise_stddev is not None:
            validation.positive_float("noise_stddev", self.noise_stddev)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the logs: the loss and the metrics."""
        return ("loss", *self.metrics)

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """Lowest and highest value, in the order of `names`."""
        default = {"loss": (0.0, 5.0)}
        return [self.bounds.get(name, default.get(name, (0.0, 1.0))) for name in self.names]

    def stddev(self, batch_size: Any) -> Any:
        """Return the standard deviation of the noise on each sum."""
        return batch_size / 20 if self.noise_stddev is None else self.noise_stddev

    def left_for_gradients(self, noise_multiplier: float, batch_size: int) -> float:
        """Return the larger noise multiplier of the gradient sum that makes room for the metrics.

        Raises:
            ValueError: when the metrics alone cost more than `noise_multiplier` allows.
        """
        if noise_multiplier == 0 or math.isinf(noise_multiplier):
            return noise_multiplier
        stddev = self.stddev(batch_size)
        left = noise_multiplier**-2 - len(self.names) / (2 * stddev) ** 2
        if left <= 0:
            raise ValueError(
                "`noise_stddev` of the private metrics must be larger, or they alone would spend "
                f"the budget. Received: {stddev:g} for {len(self.names)} metrics beside "
                f"noise_multiplier={noise_multiplier:g}. Raise it, or the batch size."
            )
        return float(left**-0.5)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments as a dictionary that Keras can save."""
        return {
            "metrics": {
                name: keras.saving.serialize_keras_object(function)
                for name, function in self.metrics.items()
            },
            "bounds": {name: list(pair) for name, pair in self.bounds.items()},
            "noise_stddev": self.noise_stddev,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "PrivateMetrics":
        """Rebuild the settings from `get_config`'s dictionary."""
        functions = {
            name: keras.saving.deserialize_keras_object(function)
            for name, function in config["metrics"].items()
        }
        bounds = {name: (low, high) for name, (low, high) in config["bounds"].items()}
        return cls(metrics=functions, bounds=bounds, noise_stddev=config["noise_stddev"])


class NoisedMeans(keras.metrics.Metric):
    """The means of an epoch so far, from noised sums.

    Args:
        settings: What is shown, and its bounds.
    """

    def __init__(self, settings: PrivateMetrics) -> None:
        super().__init__(name="private_metrics")
        self._settings = settings
        size = (len(settings.names),)
        self.shares = self.add_variable(size, initializer="zeros", name="shares")
        self.updates = self.add_variable((), initializer="zeros", name="updates")

    def update_state(self, shares: Any) -> None:
        """Take up one update: its noised sums, divided by the declared batch size."""
        self.shares.assign(self.shares + shares)
        self.updates.assign(self.updates + 1)

    def result(self) -> dict[str, Any]:
        """Return the mean of each metric, within its bounds."""
        shares = keras.ops.clip(self.shares / keras.ops.maximum(self.updates, 1) + 0.5, 0.0, 1.0)
        pairs = zip(self._settings.names, self._settings.ranges, strict=True)
        return {name: low + (high - low) * shares[i] for i, (name, (low, high)) in enumerate(pairs)}


class Shown:
    """What a model shows in training, kept out of sight of Keras' tracking of metrics.

    Args:
        settings: What is shown, and its bounds.
    """

    def __init__(self, settings: PrivateMetrics) -> None:
        self.settings = settings
        self.means = NoisedMeans(settings)
