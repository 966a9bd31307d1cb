"""Balls-in-bins sampling: every example in one random update of each epoch."""

from typing import ClassVar

import numpy as np

from keras_dp.plan import updates_per_epoch
from keras_dp.sampling.base import Sampler
from keras_dp.sampling.poisson import check_fits
from keras_dp.types import SampledBatch


class BallsInBins(Sampler):
    """Each example takes part in exactly one update of an epoch, drawn uniformly for each.

    Unlike with Poisson sampling, every example is seen once in an epoch of `round(n / batch_size)`
    updates; unlike with shuffling, each is placed independently of the others, so sizes vary.

    Privacy:
        Amplification about as strong as Poisson sampling's, often a little stronger, by a numerical
        upper bound (`accounting/balls_in_bins.py`). An epoch that was begun is paid for as a whole
        one, and every `fit` begins a new one.

    References:
        Chua et al. 2024, Balls-and-Bins Sampling for DP-SGD (https://arxiv.org/abs/2412.16802).
    """

    name: ClassVar[str] = "balls_in_bins"

    def check(self, batch_size: int, dataset_size: int) -> None:
        """Raise `ValueError` when the batch is larger than the data."""
        check_fits(batch_size, dataset_size)

    def draw(
        self, rng: np.random.Generator, batch_size: int, dataset_size: int
    ) -> list[SampledBatch]:
        """Draw the updates of one epoch."""
        bins = updates_per_epoch(dataset_size, batch_size)
        places = rng.integers(bins, size=dataset_size)
        ends = np.cumsum(np.bincount(places, minlength=bins))[:-1]
        return [SampledBatch(part) for part in np.split(np.argsort(places, kind="stable"), ends)]

    def plan_settings(self, batch_size: int, dataset_size: int) -> dict[str, int]:
        """Return the number of updates in an epoch."""
        return {"updates_per_epoch": updates_per_epoch(dataset_size, batch_size)}
