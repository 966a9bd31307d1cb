"""Truncated Poisson sampling: Poisson, but never more examples than a fixed number."""

from typing import Any, ClassVar

import numpy as np

from keras_dp import validation
from keras_dp.plan import default_largest_batch
from keras_dp.sampling.base import Sampler
from keras_dp.sampling.poisson import check_fits
from keras_dp.types import SampledBatch


class TruncatedPoisson(Sampler):
    """Poisson sampling with a largest batch: of a larger draw a random part of that size is kept.

    The device then never sees more than `largest_batch` examples in an update, so its program and
    memory are fixed.

    Args:
        largest_batch: Whole number of at least `batch_size`; `None` (default) for six standard
            deviations above it, which one draw in a billion exceeds and which costs nothing that
            could be seen in epsilon.

    Raises:
        ValueError: when `largest_batch` is no whole number of at least 1.

    Privacy:
        Accounted as what it is. Where a draw is truncated an example may take the place of
        another, so a `largest_batch` near `batch_size` costs much of the amplification: with
        noise 4, batch 1,024 of 50,000 and 10,000 updates, epsilon is 4.07 for 1,056 and 2.09 for
        1,152.

    Example:
        >>> keras_dp.sampling.TruncatedPoisson(largest_batch=1152)
        keras_dp.sampling.TruncatedPoisson(largest_batch=1152)

    References:
        https://arxiv.org/abs/2508.15089.
    """

    name: ClassVar[str] = "truncated_poisson"

    def __init__(self, largest_batch: int | None = None) -> None:
        if largest_batch is not None:
            largest_batch = validation.positive_int("largest_batch", largest_batch)
        self.largest_batch = largest_batch

    def check(self, batch_size: int, dataset_size: int) -> None:
        """Raise `ValueError` when the batch is larger than the data, or than the largest."""
        check_fits(batch_size, dataset_size)
        if self.largest_batch is not None and self.largest_batch < batch_size:
            raise ValueError(
                "`largest_batch` must be at least `batch_size`, which is the mean of the batches. "
                f"Received: largest_batch={self.largest_batch}, batch_size={batch_size}."
            )

    def draw(
        self, rng: np.random.Generator, batch_size: int, dataset_size: int
    ) -> list[SampledBatch]:
        """Draw a Binomial number of examples, at most the largest batch, then that many."""
        drawn = rng.binomial(dataset_size, batch_size / dataset_size)
        kept = min(drawn, self._largest(batch_size, dataset_size))
        return [SampledBatch(rng.choice(dataset_size, kept, replace=False, shuffle=False))]

    def plan_settings(self, batch_size: int, dataset_size: int) -> dict[str, int]:
        """Return the largest batch."""
        return {"largest_batch": self._largest(batch_size, dataset_size)}

    def get_config(self) -> dict[str, Any]:
        """Return name and arguments."""
        return {**super().get_config(), "largest_batch": self.largest_batch}

    def _largest(self, batch_size: int, dataset_size: int) -> int:
        return self.largest_batch or default_largest_batch(dataset_size, batch_size)
