"""What a sampling scheme is: a draw, and the name of the event that it amounts to."""

import abc
from typing import Any, ClassVar

import numpy as np

from keras_dp import keys
from keras_dp.types import SampledBatch


class Sampler(abc.ABC):
    """A way to draw the examples of updates.

    A sampler both draws and names the event that the accountant composes, so that the claimed
    amplification is that of the draw which took place.
    """

    name: ClassVar[str]
    """The scheme's name, under which the accountant knows its event."""

    @abc.abstractmethod
    def check(self, batch_size: int, dataset_size: int) -> None:
        """Raise `ValueError` when the scheme cannot draw such batches."""

    @abc.abstractmethod
    def draw(
        self, rng: np.random.Generator, batch_size: int, dataset_size: int
    ) -> list[SampledBatch]:
        """Draw the examples of the next updates: of one, or of an epoch that is drawn as a whole.

        Args:
            rng: Generator for this draw alone.
            batch_size: Expected number of examples in an update.
            dataset_size: Number of examples to draw from.
        """

    def plan_settings(self, batch_size: int, dataset_size: int) -> dict[str, int]:
        """Return the fields of a `PrivacyPlan` that only this scheme has."""
        del batch_size, dataset_size
        return {}

    def get_config(self) -> dict[str, Any]:
        """Return name and arguments, which `sampling.resolve` takes."""
        return {"name": self.name}

    def __repr__(self) -> str:
        """Return the constructor call."""
        arguments = [f"{k}={v!r}" for k, v in self.get_config().items() if k != "name"]
        return f"keras_dp.sampling.{type(self).__name__}({', '.join(arguments)})"


def checked(batch: SampledBatch, dataset_size: int) -> SampledBatch:
    """Return a batch that was drawn, or refuse what no scheme may draw.

    Raises:
        ValueError: when positions are no whole numbers, lie outside the data, or come twice: an
            example that enters an update twice moves its sum twice as far as the noise covers.
    """
    found = np.asarray(batch.indices)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(
            "A sampler must draw a one-dimensional array of whole numbers. "
            f"Received: shape {found.shape}, dtype {found.dtype}."
        )
    ordered = np.sort(found)
    if ordered.size and not 0 <= ordered[0] <= ordered[-1] < dataset_size:
        raise ValueError(
            f"A sampler must draw positions from 0 to {dataset_size - 1}. "
            f"Received: {ordered[0]} to {ordered[-1]}."
        )
    if np.any(ordered[1:] == ordered[:-1]):
        twice = int(ordered[1:][ordered[1:] == ordered[:-1]][0])
        raise ValueError(
            "A sampler must draw an example at most once for an update. "
            f"Received: position {twice} more than once."
        )
    return batch


def update_rng(seed: int | None, update: int) -> np.random.Generator:
    """Return the generator of a draw.

    Args:
        seed: `None` for the operating system's entropy, or the user's seed.
        update: Number of updates made before this one.

    Privacy:
        Amplification by sampling holds only while the draw is secret: a fresh 128-bit key is used
        for every draw and forgotten.
    """
    words = keys.update_key(seed, "sampling", update, 16)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(words, "little")))
