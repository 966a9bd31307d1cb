"""The chosen backend's functions: equal names in each, chosen once, here."""

# ruff: noqa: F403, F405 - each backend has the names of `__all__`; tests/backend holds it.

from typing import TYPE_CHECKING

import keras

from keras_dp.backend.report import Report

if TYPE_CHECKING or keras.backend.backend() == "jax":
    from keras_dp.backend.jax import *
elif keras.backend.backend() == "tensorflow":
    from keras_dp.backend.tensorflow import *
elif keras.backend.backend() == "torch":
    from keras_dp.backend.torch import *
else:
    raise ImportError(
        "keras_dp trains on Keras' JAX, TensorFlow and PyTorch backends. Set the environment "
        "variable KERAS_BACKEND to jax, tensorflow or torch before Keras is imported. Active "
        f"backend: {keras.backend.backend()!r}."
    )

__all__ = [
    "FLOAT16_SCALE",
    "NOISE_KEY_BYTES",
    "ExampleTrace",
    "Placement",
    "Report",
    "TrainFunction",
    "add_noise",
    "agree_on",
    "already_sharded",
    "apply_gradients",
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
    "is_eager",
    "is_first",
    "least_of",
    "loops_on_device",
    "make_views",
    "measure",
    "microbatch_at",
    "microbatch_memory",
    "observe",
    "placed_like",
    "placement",
    "regularization_gradient",
    "repeat",
    "report",
    "rewrite",
    "settle_views",
    "shared_seed",
    "show",
    "trace_example",
    "train_function",
    "undistributed",
    "views_on_host",
    "wait",
    "written_once",
]
