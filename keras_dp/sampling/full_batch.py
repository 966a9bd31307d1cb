"""Full-batch training: every example takes part in every update."""

from typing import ClassVar

import numpy as np

from keras_dp.sampling.base import Sampler
from keras_dp.types import SampledBatch


class FullBatch(Sampler):
    """All examples in every update; nothing is drawn.

    Privacy:
        No amplification: each update is one Gaussian mechanism, and `k` updates are one with
        `noise_multiplier / sqrt(k)`. Exact, and the right choice for few, large updates.
    """

    name: ClassVar[str] = "full_batch"

    def check(self, batch_size: int, dataset_size: int) -> None:
        """Raise `ValueError` when the batch is not the whole data set."""
        if batch_size != dataset_size:
            raise ValueError(
                "With sampling='full_batch' the batch is the whole data set: leave out "
                f"`batch_size` or set it to {dataset_size}. Received: batch_size={batch_size}."
            )

    def draw(
        self, rng: np.random.Generator, batch_size: int, dataset_size: int
    ) -> list[SampledBatch]:
        """Return all examples, in order."""
        del rng, batch_size
        return [SampledBatch(np.arange(dataset_size))]
