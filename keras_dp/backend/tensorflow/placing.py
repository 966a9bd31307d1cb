"""One device, or the replicas of a `tf.distribute.MirroredStrategy`."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_dp.backend.one_device import OneDevice, check_undistributed
from keras_dp.sampling.rows import map_leaves


class TensorFlowDevice(OneDevice):
    """The device that TensorFlow chooses; it moves what lies elsewhere by itself."""

    def misplaced(self, variables: Sequence[Any]) -> list[str]:
        """Refuse variables of a `tf.distribute.Strategy`; all others are where they belong.

        Raises:
            ValueError: naming a variable.
        """
        copied = [
            v.path for v in variables if isinstance(v._value, tf.distribute.DistributedValues)
        ]
        if copied:
            raise ValueError(_refusal(f"a model with variables of one, such as {copied[0]!r}"))
        return []


@dataclass(frozen=True)
class Replicas(OneDevice):
    """The devices of a `tf.distribute.MirroredStrategy`, each with a copy of every variable.

    A microbatch is cut into a part for each replica. Each clips the gradients of its own part, and
    their sums are added up: what follows, noise and optimizer, is computed once.

    Attributes:
        strategy: The strategy.
    """

    strategy: Any = None

    def misplaced(self, variables: Sequence[Any]) -> list[str]:
        """Refuse variables that were not made under the strategy.

        Raises:
            ValueError: naming a variable.
        """
        for variable in variables:
            if getattr(variable._value, "distribute_strategy", None) is not self.strategy:
                raise ValueError(
                    "The model and its optimizer must be made under the `tf.distribute.Strategy` "
                    f"that they are trained under. Received {variable.path!r}, made outside of "
                    "it. Make and compile the model inside of `strategy.scope()`."
                )
        return []

    def padded(self, size: int) -> int:
        """Return the least size that is not below `size` and can be cut evenly."""
        return -(-size // self.shards) * self.shards

    def slot(self) -> npt.NDArray[np.int32]:
        """Return an array that Keras can cut into a part for each replica."""
        return np.zeros(self.shards, np.int32)

    def by_group(self, function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        """Let every replica compute the sums of its own examples, and add them up.

        Args:
            function: `function(replicated, spread)` gives a list of sums.

        Privacy:
            The sums are exact parts of one sum over all examples: each example is in the part of
            one replica, and no replica draws noise.
        """

        def of_all(replicated: Any, spread: Any) -> list[Any]:
            def of_one() -> list[Any]:
                number = tf.distribute.get_replica_context().replica_id_in_sync_group
                part = map_leaves(lambda a: self._part(a, number), spread)
                with alone():
                    return function(replicated, part)

            found = self.strategy.run(of_one)
            return [self.strategy.reduce("SUM", each, axis=None) for each in found]

        return of_all

    def _part(self, rows: Any, number: Any) -> Any:
        size = rows.shape[0] // self.shards
        part = rows[number * size : (number + 1) * size]
        return tf.ensure_shape(part, (size, *rows.shape[1:]))


def alone() -> Any:
    """Return a context in which Keras sees no other replica, so that it does not divide losses."""
    return tf.distribute.ReplicaContext(_no_strategy(), 0)


def _no_strategy() -> Any:
    """Return what TensorFlow calls the strategy where there is none."""
    with tf.Graph().as_default():  # which no strategy has entered
        return tf.distribute.get_strategy()


@contextlib.contextmanager
def placed_like(model: Any) -> Iterator[None]:
    """Enter the strategy that a model was made under.

    Args:
        model: A Keras model.

    Raises:
        ValueError: under another strategy than the model's, or one that is no `MirroredStrategy`.
    """
    own: Any = model.distribute_strategy
    if own is _no_strategy():
        yield
        return
    if tf.distribute.has_strategy() and tf.distribute.get_strategy() is not own:
        raise ValueError(_refusal("a model that was made under another strategy than the present"))
    with own.scope():
        placement().misplaced(model.variables)
        yield


def placement() -> OneDevice:
    """Return the placement on the one device, or on the replicas of the present strategy.

    Raises:
        ValueError: under a `keras.distribution`, or a `tf.distribute.Strategy` other than
            `MirroredStrategy`.
    """
    check_undistributed()
    if not tf.distribute.has_strategy():
        return TensorFlowDevice()
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MirroredStrategy):
        raise ValueError(_refusal(type(strategy).__name__))
    count = strategy.num_replicas_in_sync
    return Replicas(None, count, count > 1, strategy=strategy)


def _refusal(received: str) -> str:
    return (
        "Private training on Keras' tensorflow backend runs on one device, or on the replicas of a "
        f"`tf.distribute.MirroredStrategy` of one machine. Received: {received}. Take a "
        "`MirroredStrategy`, or train on several machines with KERAS_BACKEND=jax."
    )
