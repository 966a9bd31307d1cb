"""How an example's gradient is scaled down: every clip rule, its factors and its sensitivity."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from keras import ops

from keras_dp import validation


@dataclass(frozen=True)
class ClipRule(ABC):
    """How an example's gradient is scaled, and what that bounds.

    Attributes:
        name: Name in `CLIP_RULES` and in statements.
        per_layer: Whether each layer's gradient is scaled by itself.
    """

    name: ClassVar[str]
    per_layer: ClassVar[bool] = False

    @abstractmethod
    def factors(self, norms: Any, clip_norm: Any, layers: int = 1) -> Any:
        """Return what each gradient is multiplied with.

        Args:
            norms: float32 array of L2 norms, over all weights together, or over one layer's.
            clip_norm: Float, the bound.
            layers: Number of layers, for rules that scale each by itself.

        Returns:
            float32 array of the norms' shape, at least 0.
        """

    @abstractmethod
    def sensitivity(self, clip_norm: Any) -> Any:
        """Return the largest L2 norm that one example adds to the sum; the noise follows it."""

    def check(self, clip_norm: float) -> None:
        """Refuse a clip norm that has no meaning with this rule."""
        del clip_norm

    def sum_noise_multiplier(self, noise_multiplier: float, batch_size: int) -> float:
        """Return the noise multiplier left for the sum, when all releases cost `noise_multiplier`.

        Args:
            noise_multiplier: The one that the accountant composes.
            batch_size: Expected number of examples in an update.
        """
        del batch_size
        return noise_multiplier

    def get_config(self) -> dict[str, Any]:
        """Return name and settings as a dictionary of JSON values."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Flat(ClipRule):
    """`min(1, clip_norm / |g|)`: small gradients stay as they are.

    Privacy:
        Sensitivity `clip_norm`.

    References:
        Abadi et al. 2016, Deep Learning with Differential Privacy, algorithm 1.
    """

    name = "flat"

    def factors(self, norms: Any, clip_norm: Any, layers: int = 1) -> Any:
        """Return `min(1, clip_norm / norm)`."""
        return clip_norm / ops.maximum(norms, clip_norm)

    def sensitivity(self, clip_norm: Any) -> Any:
        """Return `clip_norm`."""
        return clip_norm


@dataclass(frozen=True)
class UnitNorm(ClipRule):
    """`min(1 / clip_norm, 1 / |g|)`: the flat rule divided by `clip_norm`.

    The learning rate then need not follow the clip norm.

    Privacy:
        Sensitivity 1.

    References:
        De et al. 2022, Unlocking High-Accuracy Differentially Private Image Classification through
        Scale, section 2.
    """

    name = "unit_norm"

    def factors(self, norms: Any, clip_norm: Any, layers: int = 1) -> Any:
        """Return `min(1 / clip_norm, 1 / norm)`."""
        return 1.0 / ops.maximum(norms, clip_norm)

    def sensitivity(self, clip_norm: Any) -> Any:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Automatic(ClipRule):
    """`1 / (|g| + gamma)`: all gradients get nearly the same norm, and no clip norm is to be tuned.

    Args:
        gamma: Float above 0, default 0.01; keeps small gradients small.

    Privacy:
        Sensitivity 1. `clip_norm` has no part in it and must be left at 1.

    References:
        Bu et al. 2023, Automatic Clipping: Differentially Private Deep Learning Made Easier and
        Stronger, AUTO-S.
    """

    name = "automatic"
    gamma: float = 0.01

    def __post_init__(self) -> None:
        """Refuse bad settings."""
        validation.positive_float("gamma", self.gamma)

    def check(self, clip_norm: float) -> None:
        """Refuse any clip norm but 1."""
        if clip_norm != 1.0:
            raise ValueError(
                "`clip_norm` has no effect with clipping='automatic', which scales gradients to "
                f"norm 1; leave it at 1.0 and tune the learning rate. Received: {clip_norm}."
            )

    def factors(self, norms: Any, clip_norm: Any, layers: int = 1) -> Any:
        """Return `1 / (norm + gamma)`."""
        return 1.0 / (norms + self.gamma)

    def sensitivity(self, clip_norm: Any) -> Any:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class PerLayer(ClipRule):
    """Each of L layers' gradients by the flat rule, with bound `clip_norm / sqrt(L)`.

    Privacy:
        Sensitivity `clip_norm`: the squares of L bounds add up to its square.

    References:
        McMahan et al. 2018, Learning Differentially Private Recurrent Language Models, section 3.
    """

    name = "per_layer"
    per_layer = True

    def factors(self, norms: Any, clip_norm: Any, layers: int = 1) -> Any:
        """Return `min(1, clip_norm / (sqrt(layers) norm))`."""
        bound = clip_norm / math.sqrt(layers)
        return bound / ops.maximum(norms, bound)

    def sensitivity(self, clip_norm: Any) -> Any:
        """Return `clip_norm`."""
        return clip_norm


@dataclass(frozen=True)
class AdaptiveQuantile(Flat):
    """The flat rule with a clip norm that follows a quantile of the gradients' norms.

    Each update also releases, with noise, how many norms were at most the clip norm, and then
    `clip_norm *= exp(-learning_rate * (share - quantile))`. `DPOptimizer(clip_norm=...)` is where
    it starts; the present value is a variable of the optimizer.

    Args:
        quantile: Float in (0, 1), default 0.5: share of norms that are to be below the clip norm.
        learning_rate: Float above 0, default 0.2: how fast it follows.
        count_stddev: Float above 0, standard deviation of the noise on the count; `None`
            (default): a twentieth of the batch size.

    Privacy:
        Sensitivity `clip_norm`, as it is in that update. Sum and count are one release: with every
        example counting +1/2 or -1/2, the sum's noise multiplier is
        `(noise_multiplier^-2 - (2 count_stddev)^-2)^(-1/2)`, so that both together cost what
        `noise_multiplier` says.

    References:
        Andrew et al. 2021, Differentially Private Learning with Adaptive Clipping, theorem 1 and
        algorithm 1.
    """

    name = "adaptive"
    quantile: float = 0.5
    learning_rate: float = 0.2
    count_stddev: float | None = None

    def __post_init__(self) -> None:
        """Refuse bad settings."""
        validation.open_probability("quantile", self.quantile)
        validation.positive_float("learning_rate", self.learning_rate)
        if self.count_stddev is not None:
            validation.positive_float("count_stddev", self.count_stddev)

    def count_noise(self, batch_size: Any) -> Any:
        """Return the standard deviation of the noise on the count."""
        return batch_size / 20 if self.count_stddev is None else self.count_stddev

    def sum_noise_multiplier(self, noise_multiplier: float, batch_size: int) -> float:
        """Return the larger noise multiplier of the sum that makes room for the count.

        Raises:
            ValueError: when the count alone costs more than `noise_multiplier` allows.
        """
        if noise_multiplier == 0 or math.isinf(noise_multiplier):
            return noise_multiplier
        count = self.count_noise(batch_size)
        left = noise_multiplier**-2 - (2 * count) ** -2
        if left <= 0:
            raise ValueError(
                "`count_stddev` must be above half the noise multiplier, or the noisy count alone "
                f"would spend the budget. Received: count_stddev={count:g}, noise_multiplier="
                f"{noise_multiplier:g}. Raise `count_stddev` or the batch size."
            )
        return float(left**-0.5)

    def next_clip_norm(self, clip_norm: Any, noisy_excess: Any, batch_size: Any) -> Any:
        """Return the clip norm of the next update.

        Args:
            clip_norm: The present one.
            noisy_excess: Noisy sum of +1/2 for each norm at most `clip_norm` and -1/2 for others.
            batch_size: Expected number of examples in an update.
        """
        share = noisy_excess / batch_size + 0.5
        return clip_norm * ops.exp(-self.learning_rate * (share - self.quantile))


CLIP_RULES: dict[str, type[ClipRule]] = {
    rule.name: rule for rule in (Flat, UnitNorm, Automatic, PerLayer, AdaptiveQuantile)
}
"""Clip rules by the names that `DPOptimizer(clipping=...)` takes."""


def resolve(clipping: Any) -> ClipRule:
    """Return the clip rule for a name, a configuration or a rule.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(clipping, ClipRule):
        return clipping
    if isinstance(clipping, Mapping):
        settings = dict(clipping)
        return CLIP_RULES[validation.one_of("clipping", settings.pop("name"), CLIP_RULES)](
            **settings
        )
    return CLIP_RULES[validation.one_of("clipping", clipping, CLIP_RULES)]()
