"""Keras on TensorFlow: training state in variables, the update as functions of their values."""

from keras_dp.backend.float16 import FLOAT16_SCALE
from keras_dp.backend.host_loop import loops_on_device, microbatch_at, repeat
from keras_dp.backend.host_noise import NOISE_KEY_BYTES
from keras_dp.backend.one_device import OneDevice as Placement
from keras_dp.backend.one_device import already_sharded, undistributed
from keras_dp.backend.one_process import (
    agree_on,
    from_first,
    is_first,
    least_of,
    shared_seed,
    written_once,
)
from keras_dp.backend.stateful import (
    example_losses,
    hold_state,
    measure,
    observe,
    report,
    rewrite,
    show,
    train_function,
)
from keras_dp.backend.tensorflow.clipping import clipped_sum
from keras_dp.backend.tensorflow.clipping.example import clip_examples
from keras_dp.backend.tensorflow.clipping.state import trace_example
from keras_dp.backend.tensorflow.compiling import (
    apply_gradients,
    compile_function,
    exact_products,
    is_eager,
    wait,
)
from keras_dp.backend.tensorflow.inference import compile_inference, inference_size
from keras_dp.backend.tensorflow.memory import (
    corrected_size,
    examples_memory,
    fitting_examples,
    microbatch_memory,
)
from keras_dp.backend.tensorflow.noise import add_noise
from keras_dp.backend.tensorflow.placing import placed_like, placement
from keras_dp.backend.tensorflow.regularizing import regularization_gradient
from keras_dp.backend.trace import ExampleTrace
from keras_dp.backend.train_function import TrainFunction
from keras_dp.backend.views import make_views, settle_views, views_on_host

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
