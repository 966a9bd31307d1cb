"""Samplers for streams: the data decide by themselves which examples share an update."""

from typing import Any, ClassVar

import numpy as np

from keras_dp import validation
from keras_dp.errors import NotPrivateError
from keras_dp.sampling.base import Sampler
from keras_dp.types import SampledBatch


class StreamSampler(Sampler):
    """What the user states about a stream, whose batches are taken as they come.

    Attributes:
        dataset_size: The number of examples, or `None` when the data tell it.
    """

    dataset_size: int | None

    def check(self, batch_size: int, dataset_size: int) -> None:
        """Raise `ValueError` when the batch is larger than the data."""
        if batch_size > dataset_size:
            raise ValueError(
                "`dataset_size` must be at least the batch size of the stream. Received: "
                f"dataset_size={dataset_size}, batch size {batch_size}. State the number of "
                "different examples that the stream gives."
            )

    def draw(
        self, rng: np.random.Generator, batch_size: int, dataset_size: int
    ) -> list[SampledBatch]:
        """Refuse to draw: the next batch of the stream is taken instead."""
        del rng, batch_size, dataset_size
        raise NotPrivateError(
            f"{self!r} draws nothing: it is for streams of batches, which `fit` takes as they "
            "come. For data that can be read at any position leave `sampling` out."
        )


class Stream(StreamSampler):
    """The batches of a stream, each one update, in the order in which they come.

    For data that cannot be read at random positions: `tf.data`, a PyTorch `DataLoader`, generators.
    A new pass over the stream begins with `fit` and after every `updates_per_epoch` updates.

    Args:
        dataset_size: Number of different examples in the stream; `None` when the data tell it, as
            the `dataset` of a DataLoader does. A pass that gives more examples is refused.
        updates_per_epoch: Number of updates in which every example takes part at most once.
            Default: `steps_per_epoch` of `fit`, else the length of the stream.

    Raises:
        ValueError: for numbers that are not whole and positive.

    Privacy:
        No amplification by sampling: one pass of `updates_per_epoch` updates is accounted as one
        Gaussian mechanism. That every example is in at most one batch of a pass is your statement;
        it is kept in the ledger and said in the privacy statement. Neighbouring data sets differ
        by one example that is replaced by an empty one, since an example that is taken away would
        move all those behind it.

    Example:
        >>> keras_dp.sampling.Stream(dataset_size=1000)
        keras_dp.sampling.Stream(dataset_size=1000, updates_per_epoch=None)
    """

    name: ClassVar[str] = "stream"

    def __init__(
        self, dataset_size: int | None = None, updates_per_epoch: int | None = None
    ) -> None:
        self.dataset_size = _positive("dataset_size", dataset_size)
        self.updates_per_epoch = _positive("updates_per_epoch", updates_per_epoch)

    def get_config(self) -> dict[str, Any]:
        """Return name and arguments."""
        stated = {"dataset_size": self.dataset_size, "updates_per_epoch": self.updates_per_epoch}
        return {**super().get_config(), **stated}


class PoissonStream(StreamSampler):
    """The batches of a stream, which you state to be Poisson samples.

    For a pipeline that puts every example into each batch independently with probability
    `batch_size / dataset_size`, so that the batches' lengths differ. Shuffled data cut into
    batches are no such thing: use `Stream` for them.

    Args:
        batch_size: Expected number of examples in a batch.
        dataset_size: Number of examples that each batch is drawn from.

    Raises:
        ValueError: for numbers that are not whole and positive.

    Privacy:
        Accounted as the Poisson-subsampled Gaussian mechanism. The law of the batches cannot be
        checked; it is your statement, kept in the ledger and said in the privacy statement.

    Example:
        >>> keras_dp.sampling.PoissonStream(batch_size=50, dataset_size=1000)
        keras_dp.sampling.PoissonStream(batch_size=50, dataset_size=1000)
    """

    name: ClassVar[str] = "poisson_stream"

    def __init__(self, *, batch_size: int, dataset_size: int) -> None:
        self.batch_size = validation.positive_int("batch_size", batch_size)
        self.dataset_size = validation.positive_int("dataset_size", dataset_size)
        super().check(self.batch_size, self.dataset_size)

    def check(self, batch_size: int, dataset_size: int) -> None:
        """Raise `ValueError` when `fit` declares another batch size."""
        super().check(batch_size, dataset_size)
        if batch_size != self.batch_size:
            raise ValueError(
                f"`batch_size` must be that of {self!r}. Received: batch_size={batch_size}. Leave "
                "it out in `fit`."
            )

    def get_config(self) -> dict[str, Any]:
        """Return name and arguments."""
        stated = {"batch_size": self.batch_size, "dataset_size": self.dataset_size}
        return {**super().get_config(), **stated}


def _positive(name: str, value: int | None) -> int | None:
    return None if value is None else validation.positive_int(name, value)
