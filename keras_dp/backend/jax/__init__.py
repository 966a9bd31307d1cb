"""Keras on JAX: a model as pure functions, and how they are compiled."""

from keras_dp.backend.float16 import FLOAT16_SCALE
from keras_dp.backend.jax.augmenting import make_views, settle_views, views_on_host
from keras_dp.backend.jax.clipping import clipped_sum
from keras_dp.backend.jax.clipping.jaxpr.program import rewrite
from keras_dp.backend.jax.compiling import (
    apply_gradients,
    compile_function,
    exact_products,
    hold_state,
    is_eager,
    loops_on_device,
    microbatch_at,
    repeat,
    train_function,
    wait,
)
from keras_dp.backend.jax.example import (
    clip_examples,
    example_losses,
    regularization_gradient,
)
from keras_dp.backend.jax.inference import compile_inference, inference_size
from keras_dp.backend.jax.measuring import measure, observe, report, show
from keras_dp.backend.jax.memory import (
    corrected_size,
    examples_memory,
    fitting_examples,
    microbatch_memory,
)
from keras_dp.backend.jax.mesh import Placement, already_sharded, placement, undistributed
from keras_dp.backend.jax.noise import NOISE_KEY_BYTES, add_noise
from keras_dp.backend.jax.processes import (
    agree_on,
    from_first,
    is_first,
    least_of,
    shared_seed,
    written_once,
)
from keras_dp.backend.jax.state import trace_example
from keras_dp.backend.one_device import placed_like
from keras_dp.backend.trace import ExampleTrace
from keras_dp.backend.train_function import TrainFunction

__all__ = [
    "FLOAT16_SCALE",
    "NOISE_KEY_BYTES",
    "ExampleTrace",
    "Placement",
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
