"""What an adversary sees of training: the noisy gradient of every update."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_dp import backend, planning, step
from keras_dp.auditing.canaries import Coordinates, matrix_shape
from keras_dp.optimizers import DPOptimizer
from keras_dp.sampling import ArraySource
from keras_dp.step import Microbatch

Floats = npt.NDArray[np.float64]


class RecordingOptimizer(DPOptimizer):
    """A `DPOptimizer` that keeps what it is handed, at the canaries' weights only.

    The record is part of the optimizer's state, `4 * updates * canaries` bytes.

    Args:
        optimizer: The `DPOptimizer` of the model under audit, whose settings are taken.
        updates: Number of updates to keep.
        shares: Number of canaries on each trainable variable.
        seed: As for `DPOptimizer`.
    """

    def __init__(
        self, optimizer: DPOptimizer, updates: int, shares: Sequence[int], seed: int | None
    ) -> None:
        super().__init__(**copied_settings(optimizer), seed=seed)
        self._updates, self._shares = updates, list(shares)
        self.record: Any = None
        self.positions: Any = None

    def build(self, variables: list[Any]) -> None:
        """Create the state, with the record."""
        super().build(variables)
        count = sum(self._shares)
        self.record = self._add((self._updates, count), "float32", "record")
        self.positions = self._add((count,), "int32", "positions")

    def point_at(self, coordinates: Coordinates, shapes: Sequence[Sequence[int]]) -> None:
        """Record the weights at these coordinates from now on."""
        columns = np.array([matrix_shape(shape)[1] for shape in shapes])[coordinates.variables]
        self.positions.assign(coordinates.rows * columns + coordinates.columns)

    def stateless_apply(
        self, optimizer_variables: list[Any], grads: Any, trainable_variables: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Apply a `NoisyGradient` as `DPOptimizer` does, and write it to the record.

        It is kept in units of the sensitivity, which an adaptive clip norm changes.
        """
        values = dict(zip(map(id, self.variables), optimizer_variables, strict=True))
        seen = at_positions(grads.values, values[id(self.positions)], self._shares)
        norm = self.present_clip_norm(optimizer_variables, self.clip_norm)
        seen = seen / self.clip_rule.sensitivity(norm)
        row = ops.stack([values[id(self.updates)], 0])
        written = ops.slice_update(values[id(self.record)], row, seen[None])
        params, changed = super().stateless_apply(optimizer_variables, grads, trainable_variables)
        mine = [
            written if v is self.record else c for v, c in zip(self.variables, changed, strict=True)
        ]
        return params, mine

    def _add(self, shape: tuple[int, ...], dtype: str, name: str) -> Any:
        return self.add_variable(shape=shape, initializer="zeros", dtype=dtype, name=name)


class RealGradients(keras.callbacks.Callback):
    """Computes what the ordinary examples are expected to add at the canaries' weights.

    An adversary who knows all other examples and the weights subtracts it from what it sees. It is
    computed on all ordinary examples at the start of every epoch and at the end of training, at
    the cost of one more gradient for each example and epoch; in between it is interpolated.

    Args:
        source: The ordinary examples, as the audited model takes them.
        batch_size: The declared batch size.
        probability: With which an example takes part in an update.
        shares: Number of canaries on each trainable variable.
    """

    def __init__(
        self, source: ArraySource, batch_size: int, probability: float, shares: Sequence[int]
    ) -> None:
        super().__init__()
        self._source, self._shares = source, shares
        self._batch_size, self._probability = batch_size, probability
        self.sums: list[Floats] = []
        self._finish: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the last run."""
        del logs
        self.sums = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Compute at the weights with which the epoch begins."""
        del epoch, logs
        self.sums.append(self._compute())

    def on_train_end(self, logs: Any = None) -> None:
        """Compute at the last weights."""
        del logs
        self.sums.append(self._compute())

    def expected(self, steps: int) -> Floats:
        """Return the expected sums of every update, in units of the sensitivity.

        Args:
            steps: Updates in an epoch.

        Returns:
            Array of shape `(updates, canaries)`.
        """
        known = np.stack(self.sums)
        at = np.arange((len(known) - 1) * steps) / steps
        before = at.astype(np.int64)
        part = (at - before)[:, None]
        return np.asarray((1 - part) * known[before] + part * known[before + 1])

    def _compute(self) -> Floats:
        """Return what is expected of one update: ordinary examples and weight regularizers."""
        model, optimizer = self.model, self.model.optimizer
        if self._finish is None:
            self._finish = backend.compile_function(self._expected)
        params, others, metrics = (
            [variable.value for variable in variables]
            for variables in (
                model.trainable_variables,
                model.non_trainable_variables,
                model.metrics_variables,
            )
        )
        own = [variable.value for variable in optimizer.variables]
        norm = optimizer.present_clip_norm(own, np.float32(optimizer.clip_norm))
        sums, accumulate = step.start(model, params), model.train_function.update.accumulate
        for batch in self._microbatches(planning.microbatch_size(model, self._batch_size)):
            sums, *_ = accumulate((params, others, metrics), sums, batch, norm)
        found = self._finish(params, sums, optimizer.positions.value)
        return np.asarray(found / optimizer.clip_rule.sensitivity(norm), np.float64)

    def _expected(self, params: list[Any], sums: list[Any], positions: Any) -> Any:
        _, penalties = backend.regularization_gradient(self.model, params)
        found = self._probability * at_positions(sums, positions, self._shares)
        return found + self._batch_size * at_positions(penalties, positions, self._shares)

    def _microbatches(self, size: int) -> Iterator[Microbatch]:
        for offset in range(0, self._source.size, size):
            rows = np.arange(offset, min(offset + size, self._source.size))
            padded = np.concatenate([rows, np.zeros(size - len(rows), np.int64)])
            yield Microbatch(self._source.take(padded), np.int32(offset), np.int32(len(rows)))


def at_positions(values: Sequence[Any], positions: Any, shares: Sequence[int]) -> Any:
    """Return the entries of the variables' arrays at the canaries' positions, side by side."""
    ends = np.cumsum(shares)
    parts = [
        ops.take(ops.reshape(value, (-1,)), positions[end - share : end])
        for value, share, end in zip(values, shares, ends, strict=False)
    ]
    return ops.concatenate(parts)


def copied_settings(optimizer: DPOptimizer) -> dict[str, Any]:
    """Return the arguments of a `DPOptimizer` with the same settings and no state."""
    inner = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer.inner_optimizer))
    return {
        "optimizer": inner,
        "clip_norm": optimizer.clip_norm,
        "noise_multiplier": optimizer.noise_multiplier,
        "clipping": optimizer.clip_rule,
        "noise": optimizer.noise,
    }


def recorded(optimizer: RecordingOptimizer, batch_size: int) -> Floats:
    """Return the noisy sums of every update at the canaries' weights, in sensitivities."""
    return np.asarray(optimizer.record.numpy(), np.float64) * batch_size
