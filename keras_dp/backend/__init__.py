"""The chosen backend's functions: equal names in each module, chosen once, here."""

import keras

if keras.backend.backend() != "jax":
    raise ImportError(
        "keras_dp trains on Keras' JAX backend. Set the environment variable KERAS_BACKEND=jax "
        f"before Keras is imported. Active backend: {keras.backend.backend()!r}."
    )

from keras_dp.backend.jax import (
    ExampleTrace,
    Placement,
    agree_on,
    already_sharded,
    compile_function,
    corrected_size,
    example_loss,
    example_losses,
    examples_memory,
    fitting_examples,
    from_first,
    hold_state,
    is_first,
    least_of,
    loops_on_device,
    loss_scale,
    measure,
    microbatch_at,
    microbatch_memory,
    observe,
    placement,
    regularization_gradient,
    repeat,
    report,
    shared_seed,
    show,
    trace_example,
    undistributed,
    wait,
    written_once,
)

__all__ = [
    "ExampleTrace",
    "Placement",
    "agree_on",
    "already_sharded",
    "compile_function",
    "corrected_size",
    "example_loss",
    "example_losses",
    "examples_memory",
    "fitting_examples",
    "from_first",
    "hold_state",
    "is_first",
    "least_of",
    "loops_on_device",
    "loss_scale",
    "measure",
    "microbatch_at",
    "microbatch_memory",
    "observe",
    "placement",
    "regularization_gradient",
    "repeat",
    "report",
    "shared_seed",
    "show",
    "trace_example",
    "undistributed",
    "wait",
    "written_once",
]
