"""`BestOf`: a random number of runs, of which the best one is published."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy import stats

from keras_dp import validation


@dataclass(frozen=True)
class BestOf:
    """How many runs a search makes, as a distribution.

    A search runs one private mechanism K times, each time with hyper-parameters drawn anew from
    one distribution, publishes the best result and nothing of the others. K is random, and it is
    a secret: that is what makes the search cheap. Publishing the best of a fixed number of runs
    costs nearly as much as publishing all.

    K has a truncated negative binomial distribution on 1, 2, ..:
    `P(K = k) ~ (1 - gamma)^k product_(l < k) (l + shape) / (l + 1)`, or a Poisson one.

    | shape | distribution | |
    |---|---|---|
    | 0 | logarithmic | cheapest from five runs on; most searches make fewer than the mean |
    | 1 | geometric | the default |
    | infinity | Poisson | most regular; cheapest for three runs, dear for ten; may make none |

    Args:
        mean_runs: Float of at least 1, expected number of runs.
        shape: Float of at least 0, or infinity.
        seeded: Whether the number of runs came from a seed that the user chose.

    Raises:
        ValueError: when a value is out of range.

    Privacy:
        If each run has Renyi divergence `e(a)` of order a, then for any order b the search has

        `e(a) + (1 + shape) ((1 - 1/b) e(b) + log(1/gamma) / b) + log(mean_runs) / (a - 1)`.

        For runs that are e-differentially private it is (2 + shape) e in the limit. With a Poisson
        number it has `e(a) + mean_runs d + log(mean_runs) / (a - 1)`, where d is the delta of a run
        at epsilon `log(1 + 1 / (a - 1))`. The number of runs, the time they took, and all that the
        other runs left behind are not covered.

    Example:
        >>> from keras_dp import accounting
        >>> settings = dict(noise_multiplier=3.0, batch_size=2048, dataset_size=60000,
        ...                 updates=580, delta=1e-5, accountant="rdp")
        >>> one = accounting.epsilon(**settings)
        >>> best = accounting.epsilon(**settings, best_of=accounting.BestOf(mean_runs=10))
        >>> f"{one:.3f} for one run, {best:.3f} for the best of ten"
        '1.189 for one run, 2.487 for the best of ten'

    References:
        Papernot, Steinke, 2022, Hyperparameter Tuning with Renyi Differential Privacy, theorems 2
        and 6 (https://arxiv.org/abs/2110.03620); Liu, Talwar, 2019, Private Selection from Private
        Candidates (https://arxiv.org/abs/1811.07971).
    """

    mean_runs: float
    shape: float = 1.0
    seeded: bool = False

    def __post_init__(self) -> None:
        """Refuse bad values at once, and keep the numbers as floats."""
        mean = validation.positive_float("mean_runs", self.mean_runs)
        if mean < 1:
            raise ValueError(
                f"`mean_runs` must be a finite number of at least 1. Received: {self.mean_runs!r}."
            )
        object.__setattr__(self, "mean_runs", mean)
        if self.shape == math.inf:
            return
        try:
            shape = validation.non_negative_float("shape", self.shape)
        except ValueError as error:
            raise ValueError(
                "`shape` must be 0 (logarithmic), 1 (geometric), another number of at least 0, or "
                f"infinity (Poisson). Received: {self.shape!r}."
            ) from error
        object.__setattr__(self, "shape", shape)

    @property
    def distribution(self) -> str:
        """The name of the distribution."""
        names = {0.0: "logarithmic", 1.0: "geometric", math.inf: "Poisson"}
        return names.get(self.shape, f"truncated negative binomial of shape {self.shape:g}")

    @property
    def probability_of_none(self) -> float:
        """The probability that there is no run at all: 0 but for the Poisson distribution."""
        return math.exp(-self.mean_runs) if self.shape == math.inf else 0.0

    def goes_on(self, made: int, coin: float) -> bool:
        """Return whether another run follows after `made` of them.

        Deciding so run by run gives the number of runs its distribution, and nobody can know it
        before the search is over, for it does not exist before.

        Args:
            made: Number of runs that were made.
            coin: A number drawn uniformly from [0, 1), anew for each decision.
        """
        return coin < _another(self.mean_runs, self.shape, made)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments as a dictionary of JSON values; infinity is the string `"inf"`."""
        shape = "inf" if self.shape == math.inf else self.shape
        return {"mean_runs": self.mean_runs, "shape": shape, "seeded": self.seeded}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "BestOf":
        """Rebuild it from `get_config`'s dictionary."""
        shape = math.inf if config["shape"] == "inf" else config["shape"]
        return cls(config["mean_runs"], shape, config["seeded"])


@functools.lru_cache(maxsize=1024)
def _another(mean_runs: float, shape: float, made: int) -> float:
    """Return `P(K > made | K >= made)`."""
    if shape == math.inf:
        law = stats.poisson(mean_runs)
    elif made == 0:
        return 1.0
    elif mean_runs == 1:
        return 0.0
    else:
        gamma = _gamma(mean_runs, shape)
        law = stats.nbinom(shape, gamma) if shape else stats.logser(1 - gamma)
    reached = float(law.sf(made - 1))
    return float(law.sf(made)) / reached if reached > 0 else 0.0


@functools.lru_cache(maxsize=64)
def _gamma(mean_runs: float, shape: float) -> float:
    """Return the least gamma whose mean is at most `mean_runs`.

    The accountant rounds gamma down, so the number of runs that it counts is never the smaller.
    """
    if shape == 1:
        return 1 / mean_runs
    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        if _mean(middle, shape) > mean_runs:
            low = middle
        else:
            high = middle
    return high


def _mean(gamma: float, shape: float) -> float:
    """Return the mean of the truncated negative binomial distribution, for gamma in (0, 1)."""
    log = math.log(gamma)
    if shape == 0:
        return (1 / gamma - 1) / -log
    return shape * (1 / gamma - 1) / -math.expm1(shape * log)
