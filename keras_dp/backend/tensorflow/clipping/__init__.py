"""Per-example clipping on TensorFlow: one example's graph, vectorised, with book-keeping."""

from keras_dp.backend.tensorflow.clipping.example import clip_examples
from keras_dp.backend.tensorflow.clipping.front import clipped_sum
from keras_dp.backend.tensorflow.clipping.state import trace_example

__all__ = ["clip_examples", "clipped_sum", "trace_example"]
