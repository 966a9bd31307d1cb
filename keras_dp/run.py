"""One stretch of private training: its plan, its data, and the order of events in an update."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_dp import accounting, backend, keys, noise
from keras_dp.accounting import BudgetGuard
from keras_dp.augmentation import Augmentation
from keras_dp.clip_rules import ClipRule
from keras_dp.errors import PrivacyBudgetExceeded
from keras_dp.plan import Budget, PrivacyPlan
from keras_dp.private_metrics import PrivateMetrics
from keras_dp.sampling import Sampler, Source, StreamSource
from keras_dp.sampling.base import checked, update_rng
from keras_dp.sampling.rows import Rows, count, leaves, map_leaves
from keras_dp.step import Mechanism, Microbatch
from keras_dp.types import SampledBatch

READ_AT_ONCE = 2**23
"""Bytes of examples that are read together: a few microbatches, or one."""


@dataclass
class PrivateRun:
    """What `fit` or `train_on_batch` does, decided before the first update.

    Attributes:
        plan: How every update is privatized. Its noise multiplier is settled by `open`.
        source: The training data.
        sampler: How an update's examples are drawn, or `None` to take all, for a batch that the
            caller chose.
        guard: Keeps the budget and writes the ledger.
        clip_rule: How gradients are scaled down.
        seed: The user's seed, or `None`.
        microbatch_size: Examples on the devices at a time, spread evenly over them.
        private_metrics: What is shown with noise in the training logs, or `None`.
        stop_budgets: Budgets at which to stop cleanly, from `PrivacyBudget` callbacks.
        remaining: Updates left before the clean stop, or `None` when there is none.
        drawn: Batches of updates to come, where an epoch is drawn as a whole. They die with the
            run, and a new one draws anew: no two runs share an epoch.
        placement: Where examples lie on the devices.
        augmentation: Makes views of the examples, or `None`.
    """

    plan: PrivacyPlan
    source: Source
    sampler: Sampler | None
    guard: BudgetGuard
    clip_rule: ClipRule
    seed: int | None
    microbatch_size: int
    private_metrics: PrivateMetrics | None = None
    stop_budgets: list[Budget] = field(default_factory=list)
    remaining: int | None = None
    drawn: deque[SampledBatch] = field(default_factory=deque)
    placement: backend.Placement = field(default_factory=backend.placement)
    augmentation: Augmentation | None = None

    def open(self, updates: int) -> None:
        """Settle how many of the planned `updates` may be made, before the first.

        Raises:
            PrivacyBudgetExceeded: when not one more update fits, or when the planned ones do not
                all fit and no callback asks for a clean stop.
        """
        self._sum_noise_multiplier()  # refuses what leaves nothing for the sum
        self.source.open(updates)
        if self.plan.updates_per_epoch is not None:  # a new epoch is drawn, and paid for
            self.guard.ledger.close()
        allowed = self.guard.allowance(self.plan, at_most=updates)
        for budget in self.stop_budgets:
            fit = self.guard.within(budget, self.plan, updates)
            if fit == 0:
                raise PrivacyBudgetExceeded(_spent_message(budget, self.guard))
            allowed = min(allowed, fit)
        if allowed < updates and (allowed == 0 or not self.stop_budgets):
            raise PrivacyBudgetExceeded(self._refusal(allowed, updates))
        self.remaining = allowed if self.stop_budgets else None

    def admit(self) -> None:
        """Write one update to the ledger, before it is made, or refuse it.

        Raises:
            PrivacyBudgetExceeded: when the update would pass the model's budget.
            ValueError: when the clip rule's own release, or rounding, would leave nothing for the
                sum.
        """
        self._sum_noise_multiplier()
        self.guard.admit(self.plan)
        if self.remaining is not None:
            self.remaining -= 1

    @property
    def finished(self) -> bool:
        """Whether a clean stop is due."""
        return self.remaining == 0

    def draw(self) -> SampledBatch:
        """Draw the examples of the update that was admitted last, or take a stream's next batch."""
        if isinstance(self.source, StreamSource):
            return SampledBatch(np.arange(count(self.source.next_batch())))
        if self.sampler is None:
            return SampledBatch(np.arange(self.source.size))
        if not self.drawn:
            rng = update_rng(self.seed, self.guard.ledger.updates)
            batches = self.sampler.draw(rng, self.plan.batch_size, self.plan.dataset_size)
            self.drawn = deque(batches)
        drawn = checked(self.drawn.popleft(), self.plan.dataset_size)
        return SampledBatch(self.source.arrange(drawn.indices))

    def mechanism(self) -> Mechanism:
        """Return clip, noise, divisor and a fresh key for the update that was admitted last."""
        return Mechanism(
            np.float32(self.plan.clip_norm),
            np.float32(self._sum_noise_multiplier()),
            np.float32(self.plan.batch_size),
            noise.noise_key(self.seed, self.guard.ledger.updates, self.plan.noise),
        )

    def microbatches(self, batch: SampledBatch) -> Iterator[Microbatch]:
        """Cut the batch into microbatches of one size, the last one padded.

        A few are read together, when the first of them is asked for.
        """
        size = self.microbatch_size
        key = self._views_key()
        together = size * max(1, READ_AT_ONCE // (size * self.bytes_per_example))
        if self.placement.mesh is not None:  # they are cut before they go to the devices
            together = size
        for start in range(0, len(batch.indices), together):
            rows = batch.indices[start : start + together]
            padded = _pad(rows, -(-len(rows) // size) * size)
            data = self.placement.take(partial(self._read, key), padded)
            for offset in range(0, len(rows), size):
                part = data if len(padded) == size else _cut(data, offset, size)
                valid = min(size, len(rows) - offset)
                yield Microbatch(part, np.int32(start + offset), np.int32(valid), key)

    def count(self, drawn: int) -> int:
        """Return for how many microbatches the loop on the device is made, to hold a whole batch.

        The number depends on the plan alone but for draws that are rarer than one in 1e8, which
        double it: updates of varying sizes are compiled once.

        Args:
            drawn: Number of examples that were drawn.
        """
        count = _capacity(self.plan, self.microbatch_size)
        while count * self.microbatch_size < drawn:
            count *= 2
        return count

    def columns(self, batch: SampledBatch) -> Microbatch:
        """Return the whole batch for the loop on the device, a column a microbatch."""
        return self._chunk(batch, 0, self.count(len(batch.indices)), self._views_key())

    def chunks(self, batch: SampledBatch, count: int) -> Iterator[Microbatch]:
        """Cut the batch into chunks of `count` microbatches, the last one padded.

        Each is read when it is asked for.
        """
        key = self._views_key()
        for offset in range(0, len(batch.indices), count * self.microbatch_size):
            yield self._chunk(batch, offset, count, key)

    @cached_property
    def bytes_per_example(self) -> int:
        """Memory that an example's data take."""
        return max(1, sum(leaf.nbytes // len(leaf) for leaf in leaves(self._first)))

    def blank(self, count: int | None = None) -> Microbatch:
        """Return what has the shapes of a microbatch, or of a chunk of `count`, and no examples."""
        shape = (self.microbatch_size,) if count is None else (self.microbatch_size, count)

        def nothing(indices: npt.NDArray[np.int64]) -> Any:
            return map_leaves(
                lambda a: np.broadcast_to(np.zeros((), a.dtype), indices.shape + a.shape[1:]),
                self._first,
            )

        data = self.placement.take(nothing, np.zeros(shape, np.int64))
        return Microbatch(data, np.int32(0), np.int32(0), self._views_key())

    def check_resumed(self) -> None:
        """Refuse to resume a run on data of another size than it was interrupted on.

        Raises:
            ValueError: with both sizes.
        """
        releases = self.guard.ledger.releases
        if releases and releases[-1].plan.dataset_size != self.plan.dataset_size:
            raise ValueError(
                "A run must be resumed on the data that it was interrupted on. It has "
                f"{self.plan.dataset_size} examples now and had {releases[-1].plan.dataset_size} "
                "before. Pass the same data; or, to train on other data, load the weights and call "
                "`fit` without the callback that restores the run."
            )

    def goes_on_as_before(self, updates: int) -> bool:
        """Settle the noise as the interrupted run had it, when `updates` more of them fit."""
        releases = self.guard.ledger.releases
        if not releases:
            return False
        before = releases[-1].plan
        same = replace(self.plan, noise_multiplier=before.noise_multiplier) == before
        if same and self.guard.allowance(before, at_most=updates) == updates:
            self.plan = before
            return True
        return False

    def calibrated(self, budget: Budget, updates: int) -> float:
        """Return the least noise multiplier with which `updates` more stay within the budget."""
        prior = self.guard.ledger.releases
        return accounting.calibrate(budget, self.plan, updates, prior).noise_multiplier

    def with_noise(self, noise_multiplier: float) -> None:
        """Settle the noise multiplier of the plan."""
        self.plan = replace(self.plan, noise_multiplier=noise_multiplier)

    @cached_property
    def _first(self) -> Rows:
        """A few rows with the shapes of those that go to the device."""
        rows = self.source.first()
        return self._viewed(self._views_key(), rows, np.arange(count(rows)))

    def _views_key(self) -> npt.NDArray[np.uint32] | None:
        """Return the key of the views of the update that was admitted last."""
        if self.augmentation is None:
            return None
        updates = self.guard.ledger.updates
        return np.frombuffer(keys.update_key(self.seed, "views", updates, 8), np.uint32)

    def _read(self, key: Any, indices: npt.NDArray[np.int64]) -> Rows:
        return self._viewed(key, self.source.take(indices), indices)

    def _viewed(self, key: Any, rows: Rows, indices: npt.NDArray[np.int64]) -> Rows:
        """Make the views that cannot be made on the device."""
        if self.augmentation is None or not self.augmentation.on_host:
            return rows
        return (backend.views_on_host(self.augmentation, rows[0], indices, key), *rows[1:])

    def _chunk(self, batch: SampledBatch, offset: int, count: int, key: Any) -> Microbatch:
        """Return `count` microbatches from `offset` on, a column each."""
        size = self.microbatch_size
        rows = batch.indices[offset : offset + count * size]
        padded = _pad(rows, count * size).reshape(count, size).T
        data = self.placement.take(partial(self._read, key), padded)
        return Microbatch(data, np.int32(offset), np.int32(len(rows)), key)

    def _sum_noise_multiplier(self) -> float:
        left, batch_size = self.plan.raised_noise_multiplier, self.plan.batch_size
        if self.private_metrics is not None:
            left = self.private_metrics.left_for_gradients(left, batch_size)
        return self.clip_rule.sum_noise_multiplier(left, batch_size)

    def _refusal(self, allowed: int, updates: int) -> str:
        budget = self.guard.budget
        if allowed == 0 and budget is not None:
            return _spent_message(budget, self.guard)
        return (
            f"The planned {updates} updates would pass the budget {budget}: {allowed} more fit, "
            f"after {self.guard.ledger.updates} made before. Nothing was trained. Plan at most "
            f"{allowed} updates (fewer epochs or a smaller `steps_per_epoch`), raise "
            f"`noise_multiplier` (now {self.plan.noise_multiplier}), leave it None to calibrate "
            "it, or add `keras_dp.callbacks.PrivacyBudget(...)` to train and stop at the budget."
        )


def _spent_message(budget: Budget, guard: BudgetGuard) -> str:
    spent = accounting.spent(guard.charged.releases, budget.delta, budget.accountant)
    return (
        f"The budget {budget} allows no further update: {guard.charged.updates} updates have "
        f"spent epsilon={spent:.4g} at delta={budget.delta:g}. Nothing was trained. Promise a "
        "larger budget, or train a new model with more noise."
    )


def _cut(rows: Any, start: int, size: int) -> Any:
    return map_leaves(lambda a: a[start : start + size], rows)


def _pad(rows: np.ndarray, size: int) -> np.ndarray:
    """Fill up with the last position, which is read anyway; the rows it adds are masked out."""
    if len(rows) == size:
        return rows
    last = rows[-1] if len(rows) else 0
    return np.concatenate([rows, np.full(size - len(rows), last, np.int64)])


def _capacity(plan: PrivacyPlan, size: int) -> int:
    """Microbatches that hold nearly every draw: six standard deviations above the mean."""
    spread = 6 * math.sqrt(plan.batch_size * (1 - plan.batch_size / plan.dataset_size))
    return math.ceil((plan.batch_size + spread) / size)
