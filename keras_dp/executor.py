"""The train function of a `DPModel`: what Keras' loop calls once for every update."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from keras_dp import backend, step
from keras_dp.errors import NotPrivateError
from keras_dp.run import PrivateRun
from keras_dp.step import Mechanism, Microbatch, State


class UpdateFunction:
    """Makes private updates with compiled pieces, in the order that keeps the ledger true.

    For each update: the ledger is written, the examples are drawn, their clipped gradients are
    summed microbatch by microbatch, noise is added once, the optimizer moves the weights.

    Args:
        model: A `DPModel` that is built and compiled.
        on_device: Whether the loop over microbatches is part of the compiled step; `None` lets
            the backend choose.

    Attributes:
        accumulate: The compiled function that adds a microbatch's clipped gradients to the sums.
        placement: Where examples lie on the devices.
    """

    def __init__(self, model: Any, on_device: bool | None = None) -> None:
        self._model = model
        self.placement = backend.placement()
        self._on_device = backend.loops_on_device() if on_device is None else on_device
        compiled = partial(
            backend.compile_function, eager=model.run_eagerly or not model.jit_compile
        )
        self._start = compiled(partial(step.start, model))
        self.accumulate = compiled(self._accumulate_step, donate=(1,))
        self._finish = compiled(self._finish_step, donate=(0,))
        self._whole = compiled(model.train_step, donate=(0,))
        self._report = compiled(partial(backend.report, model))

    def __call__(self, state: State, iterator: Iterator[Any]) -> tuple[dict[str, Any], State]:
        """Make `steps_per_execution` updates and return the logs and the new state."""
        run: PrivateRun | None = self._model.active_run
        if run is None:
            raise NotPrivateError(
                "The train function of a DPModel is called by `fit` and `train_on_batch` only, "
                "which draw and account for the examples. Call one of them."
            )
        backend.hold_state(self._model, state)
        next(iterator)
        state = self._update(run, state)
        for _ in range(self._model.steps_per_execution - 1):
            if run.finished or next(iterator, None) is None:
                break
            state = self._update(run, state)
        if run.finished:
            self._model.stop_training = True
        return self._report(state[3]), state

    def _update(self, run: PrivateRun, state: State) -> State:
        run.admit()
        mechanism = run.mechanism()
        batch = run.draw()
        if self._on_device:
            _, state = self._whole(state, (run.columns(batch), mechanism))
        else:
            state = self._looped(state, run.microbatches(batch), mechanism)
        backend.hold_state(self._model, state)
        return state

    def _looped(
        self, state: State, microbatches: Iterator[Microbatch], mechanism: Mechanism
    ) -> State:
        """Make one update with the loop over microbatches on the host."""
        params, non_trainable, optimizer_variables, metrics = state
        sums = self._start(params)
        clip_norm = self._model.optimizer.present_clip_norm(
            optimizer_variables, mechanism.clip_norm
        )
        for microbatch in microbatches:
            sums, metrics = self.accumulate(
                (params, non_trainable, metrics), sums, microbatch, clip_norm
            )
        return self._finish((params, non_trainable, optimizer_variables, metrics), sums, mechanism)

    def _accumulate_step(
        self, state: Any, sums: list[Any], microbatch: Microbatch, clip_norm: Any
    ) -> tuple[list[Any], list[Any]]:
        params, non_trainable, metrics = state
        return step.accumulate(
            self._model, (params, non_trainable, [], metrics), sums, microbatch, clip_norm
        )

    def _finish_step(self, state: State, sums: list[Any], mechanism: Mechanism) -> State:
        return step.finish(self._model, self._model.advance_state, state, sums, mechanism)
