"""Placement on one device of one process: nothing is spread, nothing is agreed on."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_dp.sampling.rows import in_floatx, map_leaves
from keras_dp.types import Tree


@dataclass(frozen=True)
class OneDevice:
    """Where the arrays of an update lie: all of them on Keras' default device.

    Attributes:
        mesh: `None`: there is no mesh of devices.
        shards: Number of groups of devices with examples of their own.
        spread: Whether there is more than one group.
        spans_processes: Whether some of the devices belong to other processes.
    """

    mesh: None = None
    shards: int = 1
    spread: bool = False
    spans_processes: bool = False

    def misplaced(self, variables: Sequence[Any]) -> list[str]:
        """Return the paths of variables that lie elsewhere; there are none."""
        del variables
        return []

    def padded(self, size: int) -> int:
        """Return the least size that is not below `size` and can be spread evenly."""
        return size

    def slot(self) -> npt.NDArray[np.int32]:
        """Return an array that Keras takes for the data of an update."""
        return np.zeros(1, np.int32)

    def take(
        self, read: Callable[[npt.NDArray[np.int64]], Tree], indices: npt.NDArray[np.int64]
    ) -> Tree:
        """Read rows and put them on the device.

        Args:
            read: Reads rows by their positions, see `Source.take`.
            indices: Positions.
        """
        return map_leaves(
            lambda a: keras.ops.convert_to_tensor(in_floatx(np.asarray(a))), read(indices)
        )

    def by_group(self, function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        """Let every group of devices compute sums of its own; there is one."""
        return function

    def by_device(self, variables: Sequence[Any]) -> None:
        """Return `None`, as for one device."""
        del variables

    def zeros(self, shapes: Sequence[tuple[int, ...]], variables: Sequence[Any]) -> list[Any]:
        """Return float32 zeros of these shapes."""
        del variables
        return [keras.ops.zeros(shape, "float32") for shape in shapes]

    def total(self, sums: list[Any]) -> list[Any]:
        """Add up the groups' sums; there is one group."""
        return sums

    def laid_out(self, values: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """Return values with the layouts of these variables."""
        del variables
        return list(values)


def check_undistributed() -> None:
    """Refuse a `keras.distribution`, under which one device would train without a word.

    Raises:
        ValueError: naming the distribution.
    """
    distribution = keras.distribution.distribution()
    if distribution is not None:
        raise ValueError(
            f"Private training on Keras' {keras.backend.backend()} backend runs on one device, "
            f"without a `keras.distribution`. Received: {type(distribution).__name__}. Call "
            "`keras.distribution.set_distribution(None)`, or train on several devices with "
            "KERAS_BACKEND=jax."
        )


@contextlib.contextmanager
def already_sharded(sizes: Iterable[int] = (), *, gathered: bool = False) -> Iterator[None]:
    """Let Keras take data as they are: there is one process.

    Args:
        sizes: Sizes of the batches to come.
        gathered: Whether results for single examples are needed in every process.
    """
    del sizes, gathered
    yield


@contextlib.contextmanager
def placed_like(model: Any) -> Iterator[None]:
    """Train a model where it was made, which is where everything else is.

    Args:
        model: A Keras model.
    """
    del model
    yield


@contextlib.contextmanager
def undistributed() -> Iterator[None]:
    """Let Keras lay out nothing while one example's loss is computed; it never does here."""
    yield
