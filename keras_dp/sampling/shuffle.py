"""Shuffled data cut into batches of a fixed size, as ordinary training takes them."""

from typing import ClassVar

import numpy as np

from keras_dp.plan import updates_per_epoch
from keras_dp.sampling.base import Sampler
from keras_dp.sampling.poisson import check_fits
from keras_dp.types import SampledBatch


class Shuffle(Sampler):
    """The data in a new random order for each epoch, cut into batches of `batch_size`.

    An epoch is `round(n / batch_size)` updates. When that is more than the data fill, the last
    batch is smaller; when it is less, some examples (others every time) sit the epoch out.

    Privacy:
        No amplification is claimed: an epoch counts as one Gaussian mechanism, since each example
        enters at most one of its updates. That is far more epsilon than Poisson sampling spends
        for the same noise. The neighbouring relation is the replacement of one example by an
        empty one (`"replace_special"`): one example more would move others between batches.

    References:
        Chua et al. 2024, How Private are DP-SGD Implementations?
        (https://arxiv.org/abs/2403.17673).
    """

    name: ClassVar[str] = "shuffle"

    def check(self, batch_size: int, dataset_size: int) -> None:
        """Raise `ValueError` when the batch is larger than the data."""
        check_fits(batch_size, dataset_size)

    def draw(
        self, rng: np.random.Generator, batch_size: int, dataset_size: int
    ) -> list[SampledBatch]:
        """Draw the updates of one epoch."""
        order = rng.permutation(dataset_size)
        starts = range(0, batch_size * updates_per_epoch(dataset_size, batch_size), batch_size)
        return [SampledBatch(order[start : start + batch_size]) for start in starts]

    def plan_settings(self, batch_size: int, dataset_size: int) -> dict[str, int]:
        """Return the number of updates in an epoch."""
        return {"updates_per_epoch": updates_per_epoch(dataset_size, batch_size)}
