"""Poisson sampling: every example takes part in an update with the same probability."""

from typing import ClassVar

import numpy as np

from keras_dp.sampling.base import Sampler
from keras_dp.types import SampledBatch


class Poisson(Sampler):
    """Every example takes part in an update independently with probability `batch_size / n`.

    The number of examples varies from update to update; `batch_size` is its mean. One draw is
    made for the whole update and then cut into microbatches: drawing for each microbatch would
    let an example enter one update several times.

    Privacy:
        The strongest amplification that is known, accounted as the Poisson-subsampled Gaussian
        mechanism. It holds for this draw only, not for shuffled data cut into batches.

    References:
        Abadi et al. 2016; Mironov et al. 2019, Renyi Differential Privacy of the Sampled Gaussian
        Mechanism.
    """

    name: ClassVar[str] = "poisson"

    def check(self, batch_size: int, dataset_size: int) -> None:
        """Raise `ValueError` when the batch is larger than the data."""
        check_fits(batch_size, dataset_size)

    def draw(
        self, rng: np.random.Generator, batch_size: int, dataset_size: int
    ) -> list[SampledBatch]:
        """Draw a Binomial number of examples, then that many different ones.

        The same distribution as one coin for each example, in time that grows with the batch.
        """
        count = rng.binomial(dataset_size, batch_size / dataset_size)
        return [SampledBatch(rng.choice(dataset_size, count, replace=False, shuffle=False))]


def check_fits(batch_size: int, dataset_size: int) -> None:
    """Raise `ValueError` when the batch is larger than the data."""
    if batch_size > dataset_size:
        raise ValueError(
            f"`batch_size` must be at most the number of training examples, {dataset_size}. "
            f"Received: batch_size={batch_size}. Use a smaller batch, or "
            "sampling='full_batch' to take all examples in every update."
        )
