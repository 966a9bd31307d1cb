"""What a sampling scheme is: a draw, and the name of the event that it amounts to."""

import abc
from typing import ClassVar

import numpy as np

from keras_dp import keys
from keras_dp.types import SampledBatch


class Sampler(abc.ABC):
    """A way to draw the examples of an update.

    A sampler both draws and names the event that the accountant composes, so that the claimed
    amplification is that of the draw which took place.
    """

    name: ClassVar[str]
    """The scheme's name, under which the accountant knows its event."""

    @abc.abstractmethod
    def check(self, batch_size: int, dataset_size: int) -> None:
        """Raise `ValueError` when the scheme cannot draw such batches."""

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator, batch_size: int, dataset_size: int) -> SampledBatch:
        """Draw the examples of one update.

        Args:
            rng: Generator for this update alone.
            batch_size: Expected number of examples.
            dataset_size: Number of examples to draw from.
        """

    def __repr__(self) -> str:
        """Return the constructor call."""
        return f"keras_dp.sampling.{type(self).__name__}()"


def update_rng(seed: int | None, update: int) -> np.random.Generator:
    """Return the generator that draws one update's examples.

    Args:
        seed: `None` for the operating system's entropy, or the user's seed.
        update: Number of updates made before this one.

    Privacy:
        Amplification by sampling holds only while the draw is secret: a fresh 128-bit key is used
        for every update and forgotten.
    """
    words = keys.update_key(seed, "sampling", update, 16)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(words, "little")))
