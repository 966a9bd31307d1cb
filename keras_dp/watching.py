"""What looks at exact values of private data during training, and is to be mentioned."""

import warnings
from collections.abc import Iterator
from typing import Any

import keras

NOTICE = (
    "The loss and metrics of training are exact functions of the private data, and no guarantee "
    "covers them: publish the model and its statement, not the logs. "
    "`compile(private_metrics=keras_dp.PrivateMetrics(...))` shows noised ones. (Said once.)"
)
_said: set[str] = set()


def say_once(text: str) -> None:
    """Warn with this text, once in the life of the process."""
    if text not in _said:
        _said.add(text)
        warnings.warn(text, stacklevel=2)


def notes(callbacks: Any, private_names: tuple[str, ...], split: bool) -> list[str]:
    """Return a note on every callback that acts on an exact value of private data.

    Args:
        callbacks: What was passed to `fit`.
        private_names: Names of the training metrics that are shown with noise.
        split: Whether validation data were split off from the training data.
    """
    return [
        f"{type(callback).__name__} acted on {callback.monitor!r}, an exact function of "
        f"{_source(callback.monitor, split)}."
        for callback in _acting(callbacks)
        if callback.monitor != "epsilon" and callback.monitor not in private_names
    ]


def _acting(callbacks: Any) -> Iterator[Any]:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    for callback in keras.tree.flatten(callbacks) if callbacks else []:
        if not isinstance(getattr(callback, "monitor", None), str):
            continue
        saves = isinstance(
            callback, (keras.callbacks.ModelCheckpoint, keras.callbacks.OrbaxCheckpoint)
        )
        if not saves or callback.save_best_only:
            yield callback


def _source(monitor: str, split: bool) -> str:
    if not monitor.startswith("val_"):
        return "the training data"
    return "data split off from the training data" if split else "the validation data"
