"""What a source of training examples is."""

import abc

import numpy as np
import numpy.typing as npt

from keras_dp.sampling.rows import Rows, map_leaves


class Source(abc.ABC):
    """Training examples, each with a position that never changes.

    One position is one example: it is what the guarantee protects. A source reads exactly the rows
    that were asked for, in that order, and each row from one example alone.

    Attributes:
        size: The number of examples.
        batch_size: The batch size to take when none is declared, or `None`.
        updates_per_epoch: Updates in which an example takes part at most once, or `None` when the
            data do not see to that.
    """

    size: int
    batch_size: int | None = None
    updates_per_epoch: int | None = None

    def __len__(self) -> int:
        """Return the number of examples."""
        return self.size

    def take(self, indices: npt.NDArray[np.int64]) -> Rows:
        """Return `(x, y, sample_weight)` at these positions, floats in Keras' default precision.

        Args:
            indices: int64 array of positions, in any order, also several times or none at all. The
                arrays that are returned have its shape in the place of the batch axis.
        """
        x, y, weight = map_leaves(
            lambda a: a.reshape(*indices.shape, *a.shape[1:]), self.rows(indices.ravel())
        )
        return x, y, weight

    @abc.abstractmethod
    def rows(self, indices: npt.NDArray[np.int64]) -> Rows:
        """Return `take(indices)` for an array with one axis."""

    def first(self) -> Rows:
        """Return one or two rows, of which shapes and dtypes are used."""
        return self.take(np.arange(min(2, self.size)))

    def open(self, updates: int) -> None:
        """Refuse what cannot serve that many updates, before the first.

        Args:
            updates: How many updates are planned.

        Raises:
            ValueError: when the data would end before.
        """
        del updates

    def plan_settings(self) -> dict[str, int]:
        """Return the fields of a `PrivacyPlan` that only these data have."""
        if self.updates_per_epoch is None:
            return {}
        return {"updates_per_epoch": self.updates_per_epoch}

    def arrange(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the positions drawn for one update in the order in which they are read best.

        Args:
            indices: int64 array of the positions drawn.
        """
        return indices

    def split(self, fraction: float) -> tuple["Source", Rows]:
        """Split off the last `fraction` of the examples for validation.

        Args:
            fraction: Float in (0, 1).

        Returns:
            The source of the other examples, and the rows that were split off.

        Raises:
            ValueError: when the data cannot be split.
        """
        del fraction
        raise ValueError(
            "`validation_split` works with arrays only, as in Keras. Split the data yourself and "
            "pass the second part as `validation_data`."
        )
