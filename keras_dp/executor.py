"""The train function of a `DPModel`: what Keras' loop calls once for every update."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from keras_dp import backend, step
from keras_dp.augmentation import count_views
from keras_dp.errors import NotPrivateError
from keras_dp.run import PrivateRun
from keras_dp.step import Mechanism, Microbatch, State

_HOLDERS = ("keras_dp.", "jax.", "tensorflow.", "torch.")
"""Modules whose frames may hold sums without noise."""


class UpdateFunction:
    """Makes private updates with compiled pieces, in the order that keeps the ledger true.

    For each update: the ledger is written, the examples are drawn, their clipped gradients are
    summed microbatch by microbatch, noise is added once, the optimizer moves the weights.

    Compiled calls return before the device has run them, so the host draws, reads and copies what
    comes next while it does: one piece ahead and no more, which keeps the memory constant.

    Args:
        model: A `DPModel` that is built and compiled.
        on_device: Whether the loop over microbatches is part of the compiled step; `None` lets
            the backend choose.

    Attributes:
        model: The same.
        accumulate: The compiled function that adds a microbatch's clipped gradients to the sums. It
            returns sums, metrics and something to wait for.
        placement: Where examples lie on the devices.

    Privacy:
        Sums without noise live in one call of this object and nowhere else: not in the state that
        Keras holds and saves, nor, when an update is interrupted, in what its traceback holds.
    """

    def __init__(self, model: Any, on_device: bool | None = None) -> None:
        self.model = model
        self.placement = backend.placement()
        self._on_device = backend.loops_on_device() if on_device is None else on_device
        compiled = partial(backend.compile_function, eager=backend.is_eager(model))
        self._start = compiled(partial(step.start, model))
        self.accumulate = compiled(self._accumulate_step, donate=(1,))
        self._accumulate_chunk = compiled(self._chunk_step, donate=(1,))
        self._finish = compiled(self._finish_step, donate=(0,))
        self._whole = compiled(model.train_step, donate=(0,))
        self._report = compiled(partial(backend.report, model))
        self._sizes: dict[int, int] = {}
        self._chunks: dict[int, int] = {}
        self._running: Any = ()

    def __call__(self, state: State, iterator: Iterator[Any]) -> tuple[dict[str, Any], State]:
        """Make `steps_per_execution` updates and return the logs and the new state."""
        run: PrivateRun | None = self.model.active_run
        if run is None:
            raise NotPrivateError(
                "The train function of a DPModel is called by `fit` and `train_on_batch` only, "
                "which draw and account for the examples. Call one of them."
            )
        next(iterator)
        state = self._update(run, state)
        for _ in range(self.model.steps_per_execution - 1):
            if run.finished or next(iterator, None) is None:
                break
            state = self._update(run, state)
        if run.finished:
            self.model.stop_training = True
        return self._report(state[3]), state

    def _update(self, run: PrivateRun, state: State) -> State:
        run.admit()
        mechanism = run.mechanism()
        self._correct_size(run, state, mechanism)
        batch = run.draw()
        try:
            if not self._on_device:
                microbatches = run.microbatches(batch)
                state = self._summed(state, self.accumulate, microbatches, mechanism)
            elif run.count(len(batch.indices)) <= (most := self._most(run)):
                logs, state = self._whole(state, (run.columns(batch), mechanism))
                self._go_ahead_of(logs)
            else:
                chunks = run.chunks(batch, most)
                state = self._summed(state, self._accumulate_chunk, chunks, mechanism)
        except BaseException as error:
            _empty_frames(error)  # test_an_interrupted_update_leaves_no_sums_behind
            raise
        backend.hold_state(self.model, state)
        return state

    def _summed(
        self,
        state: State,
        accumulate: Callable[..., Any],
        pieces: Iterator[Microbatch],
        mechanism: Mechanism,
    ) -> State:
        """Make one update whose sums are carried from one compiled call to the next."""
        params, non_trainable, optimizer_variables, metrics = state
        sums = self._start(params)
        clip_norm = self.model.optimizer.present_clip_norm(optimizer_variables, mechanism.clip_norm)
        for piece in pieces:
            sums, metrics, done = accumulate(
                (params, non_trainable, metrics), sums, piece, clip_norm
            )
            self._go_ahead_of(done)
        return self._finish((params, non_trainable, optimizer_variables, metrics), sums, mechanism)

    def _go_ahead_of(self, running: Any) -> None:
        """Wait for the piece before this one: this one is in the device's memory already."""
        backend.wait(self._running)
        self._running = running

    def _most(self, run: PrivateRun) -> int:
        """Return how many microbatches of data the device takes at a time, a power of two.

        While it works on them, as many are on their way. The number is settled once, since it is
        a shape of what is compiled.
        """
        each = run.bytes_per_example * run.microbatch_size // self.placement.shards
        if each not in self._chunks:
            fitting = max(1, backend.examples_memory() // (2 * each))
            self._chunks[each] = 1 << (fitting.bit_length() - 1)
        return self._chunks[each]

    def _correct_size(self, run: PrivateRun, state: State, mechanism: Mechanism) -> None:
        """Take smaller microbatches if the compiled program needs more memory than estimated."""
        size = run.microbatch_size
        if self.model.microbatch_size is not None:
            return
        if size not in self._sizes:
            shards = self.placement.shards
            program = self._program(run, state, mechanism)
            views = count_views(self.model.view_maker)
            most = backend.corrected_size(size // shards, *program, views=views)
            fitting = shards * backend.least_of(most)
            self._sizes |= {size: fitting, fitting: fitting}  # no more than one compilation more
        run.microbatch_size = self._sizes[size]

    def _program(self, run: PrivateRun, state: State, mechanism: Mechanism) -> tuple[Any, ...]:
        """Return the function that will run the microbatches, and arguments with its shapes."""
        params, non_trainable, optimizer_variables, metrics = state
        if self._on_device and run.count(0) <= self._most(run):
            return self._whole, state, (run.blank(run.count(0)), mechanism)
        clip_norm = self.model.optimizer.present_clip_norm(optimizer_variables, mechanism.clip_norm)
        others = (params, non_trainable, metrics), self._start(params)
        if self._on_device:
            return self._accumulate_chunk, *others, run.blank(self._most(run)), clip_norm
        return self.accumulate, *others, run.blank(), clip_norm

    def _accumulate_step(self, *arguments: Any) -> tuple[list[Any], list[Any], Any]:
        return self._added(step.accumulate, *arguments)

    def _chunk_step(self, *arguments: Any) -> tuple[list[Any], list[Any], Any]:
        return self._added(step.accumulate_chunk, *arguments)

    def _added(
        self,
        accumulate: Callable[..., Any],
        state: Any,
        sums: list[Any],
        piece: Microbatch,
        clip_norm: Any,
    ) -> tuple[list[Any], list[Any], Any]:
        params, non_trainable, metrics = state
        without_optimizer: State = (params, non_trainable, [], metrics)
        sums, metrics = accumulate(self.model, without_optimizer, sums, piece, clip_norm)
        # The sums are donated to the next call, so there is a constant to wait for.
        return sums, metrics, np.int32(0)

    def _finish_step(self, state: State, sums: list[Any], mechanism: Mechanism) -> State:
        return step.finish(self.model, self.model.advance_state, state, sums, mechanism)


def _empty_frames(error: BaseException) -> None:
    """Take their values from the frames that an error came through, but not from a user's own."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").startswith(_HOLDERS):
            with contextlib.suppress(RuntimeError):  # it still runs
                frame.clear()
