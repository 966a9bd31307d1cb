"""What `fit` hands to Keras' loop: a stream of update slots, and the opening of the run."""

import functools
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import keras

from keras_dp import backend, watching
from keras_dp.run import PrivateRun

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def where_it_was_made(train: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a method of a model train on the devices that the model was made for."""

    @functools.wraps(train)
    def placed(*arguments: Arguments.args, **settings: Arguments.kwargs) -> Result:
        with backend.placed_like(arguments[0]):
            return train(*arguments, **settings)

    return placed


class Updates(keras.utils.PyDataset):
    """One element for every update of an epoch; the train function draws the examples itself.

    Args:
        count: Updates in an epoch.
        placement: Where examples lie; Keras spreads a slot as it would spread them.
    """

    def __init__(self, count: int, placement: backend.Placement) -> None:
        super().__init__()
        self._count, self._slot = count, placement.slot()

    def __len__(self) -> int:
        """Return the number of updates in an epoch."""
        return self._count

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return an empty slot."""
        del index
        return (self._slot,)


class Opening(keras.callbacks.Callback):
    """Settles noise and budget when training begins, after all other callbacks have.

    A callback that restores an interrupted run does so when training begins, and may change the
    ledger and the first epoch; what is left to do is known only then, and no update is made yet.

    Args:
        run: The run that is about to begin.
        epochs: Number of the last epoch.
        steps: Updates in an epoch.
        initial_epoch: Number of the first epoch.
        notes: What the ledger is to mention once the run is open.
    """

    def __init__(
        self, run: PrivateRun, epochs: int, steps: int, initial_epoch: int, notes: list[str]
    ) -> None:
        super().__init__()
        self._run, self._notes = run, notes
        self._epochs, self._steps, self._initial_epoch = epochs, steps, initial_epoch

    def on_train_begin(self, logs: Any = None) -> None:
        """Calibrate the noise if it is not given, then admit or refuse the planned updates."""
        del logs
        first = self.model._initial_epoch or self._initial_epoch
        updates = max(0, self._epochs - first) * self._steps
        earlier_fit = self.model.active_run is not self._run  # left in a CallbackList used again
        if updates == 0 or earlier_fit:
            return
        if self.model._initial_epoch:
            self._run.check_resumed()
        made = self.model.ledger.updates
        backend.agree_on({"first epoch": first, "number of updates so far": made})
        self._settle_noise(updates)
        self._run.open(updates)
        for text in self._notes:
            self.model.ledger.note(text)
        if self.model.private_metrics is None:
            watching.say_once(watching.NOTICE)

    def _settle_noise(self, updates: int) -> None:
        optimizer = self.model.optimizer
        if optimizer.noise_multiplier is not None:
            return
        if self.model._initial_epoch and self._run.goes_on_as_before(updates):
            optimizer.noise_multiplier = self._run.plan.noise_multiplier
            return
        optimizer.noise_multiplier = self._run.calibrated(self.model.budget, updates)
        self._run.with_noise(optimizer.noise_multiplier)


def with_opening(callbacks: Any, opening: Opening, model: Any) -> Any:
    """Return the callbacks with those that write logs first and the opening last."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        opening.set_model(model)
        callbacks.callbacks.append(opening)
        return callbacks
    listed = keras.tree.flatten(callbacks) if callbacks else []
    for callback in listed:
        _share_folder(callback)
    return [*sorted(listed, key=lambda c: not getattr(c, "writes_logs", False)), opening]


def _share_folder(callback: Any) -> None:
    """Let many processes have one folder for checkpoints: no two of them make or remove it."""
    if isinstance(callback, keras.callbacks.BackupAndRestore):
        folder = str(callback.backup_dir)
        callback.delete_checkpoint = callback.delete_checkpoint and backend.is_first()
    elif isinstance(callback, keras.callbacks.ModelCheckpoint):
        folder = os.path.dirname(callback.filepath)
    else:
        return
    if folder and "://" not in folder and "{" not in folder:
        os.makedirs(folder, exist_ok=True)
