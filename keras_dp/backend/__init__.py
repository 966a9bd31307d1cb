"""The chosen backend's functions: equal names in each, chosen once, here."""

# ruff: noqa: F403, F405 - each backend has the names of `__all__`; tests/backend holds it.

from typing import TYPE_CHECKING

import keras

from keras_dp.backend.report import Report

if TYPE_CHECKING or keras.backend.backend() == "jax":
    from keras_dp.backend.jax import *
else:
    raise ImportError(
        "keras_dp trains on Keras' JAX backend. Set the environment variable KERAS_BACKEND=jax "
        f"before Keras is imported. Active backend: {keras.backend.backend()!r}."
    )

__all__ = [
    "FLOAT16_SCALE",
    "NOISE_KEY_BYTES",
    "ExampleTrace",
    "Placement",
    "Report",
    "add_noise",
    "agree_on",
    "already_sharded",
    "clip_examples",
    "clipped_sum",
    "compile_function",
    "compile_inference",
    "corrected_size",
    "exact_products",
    "example_losses",
    "examples_memory",
    "fitting_examples",
    "from_first",
    "hold_state",
    "inference_size",
    "is_first",
    "least_of",
    "loops_on_device",
    "make_views",
    "measure",
    "microbatch_at",
    "microbatch_memory",
    "observe",
    "placement",
    "regularization_gradient",
    "repeat",
    "report",
    "rewrite",
    "settle_views",
    "shared_seed",
    "show",
    "trace_example",
    "undistributed",
    "views_on_host",
    "wait",
    "written_once",
]
