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
