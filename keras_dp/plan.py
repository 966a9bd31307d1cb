"""What was promised (`Budget`) and how one update keeps it (`PrivacyPlan`)."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from keras_dp import validation


@dataclass(frozen=True)
class Budget:
    """The promise: the model refuses any update that would pass it.

    Args:
        epsilon: Float above 0, the largest privacy loss allowed at `delta`.
        delta: Float in (0, 1), the probability with which the loss may be larger. Choose it well
            below one over the number of examples.
        accountant: Name of the accountant that measures the spent epsilon: `"pld"` (default,
            tight), `"rdp"` or `"rdp_classic"`.

    Raises:
        ValueError: when epsilon or delta is out of range.

    Privacy:
        (epsilon, delta)-differential privacy under adding or removing one example.

    Example:
        >>> from keras_dp import Budget
        >>> Budget(epsilon=3.0, delta=1e-5)
        Budget(epsilon=3.0, delta=1e-05, accountant='pld')
    """

    epsilon: float
    delta: float
    accountant: str = "pld"

    def __post_init__(self) -> None:
        """Refuse values outside the range at once."""
        validation.positive_float("epsilon", self.epsilon)
        validation.open_probability("delta", self.delta)
        validation.one_of("accountant", self.accountant, ("pld", "rdp", "rdp_classic"))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments as a dictionary."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """How every update of one stretch of training is privatized.

    The one source of clip norm, noise and sampling: the step clips and draws noise by it, and the
    accountant composes the event that follows from it, so the two cannot disagree.

    Args:
        sampling: Name of the scheme by which the examples of an update are drawn, or `"given"` for
            a batch that the caller chose (no amplification).
        batch_size: Expected number of examples in an update; the divisor of the noisy sum.
        dataset_size: Number of examples that the draw is made from.
        clip_norm: The bound on one example's gradient.
        noise_multiplier: Standard deviation of the noise on the sum, in units of the sensitivity.
        clipping: Name of the clip rule.
        sensitivity: The largest L2 norm that one example adds to the sum; `None` (default):
            `clip_norm`. An adaptive clip norm is the sensitivity itself, and this is its start.
        seeded: Whether noise and sampling came from a seed that the user chose.
        largest_batch: The number of examples above which a draw is truncated, if it is.
        updates_per_epoch: Number of updates in which an example takes part at most once, for
            schemes that see to that.
        private_metrics: Number of training metrics that are released with noise beside the sum;
            `noise_multiplier` is then that of both together.
    """

    sampling: str
    batch_size: int
    dataset_size: int
    clip_norm: float
    noise_multiplier: float
    clipping: str = "flat"
    sensitivity: float | None = None
    seeded: bool = False
    largest_batch: int | None = None
    updates_per_epoch: int | None = None
    private_metrics: int = 0

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on the clipped sum."""
        bound = self.clip_norm if self.sensitivity is None else self.sensitivity
        return self.noise_multiplier * bound

    def get_config(self) -> dict[str, Any]:
        """Return the fields as a dictionary of JSON values."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "PrivacyPlan":
        """Rebuild a plan from `get_config`'s dictionary."""
        return cls(**config)


def default_largest_batch(dataset_size: int, batch_size: int) -> int:
    """Return a batch that one Poisson draw in a billion exceeds: six deviations above the mean."""
    spread = math.sqrt(batch_size * (1 - batch_size / dataset_size))
    return min(dataset_size, math.ceil(batch_size + 6 * spread))


def updates_per_epoch(dataset_size: int, batch_size: int) -> int:
    """Return `round(dataset_size / batch_size)`, at least 1, computed in whole numbers."""
    return max(1, round(Fraction(dataset_size, batch_size)))
