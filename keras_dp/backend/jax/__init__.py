"""Keras on JAX: a model as pure functions, and how they are compiled."""

from keras_dp.backend.jax.compiling import (
    compile_function,
    hold_state,
    loops_on_device,
    microbatch_at,
    repeat,
    zeros_for,
)
from keras_dp.backend.jax.example import example_loss, regularization_gradient
from keras_dp.backend.jax.measuring import measure, report
from keras_dp.backend.jax.state import StateUpdates, trace_state_updates

__all__ = [
    "StateUpdates",
    "compile_function",
    "example_loss",
    "hold_state",
    "loops_on_device",
    "measure",
    "microbatch_at",
    "regularization_gradient",
    "repeat",
    "report",
    "trace_state_updates",
    "zeros_for",
]
