"""Keras on TensorFlow: a model as pure functions, and how they are compiled."""

import contextlib

from keras_dp.backend.tensorflow.clipping import clipped_sum
from keras_dp.backend.tensorflow.clipping.example import clip_examples
from keras_dp.backend.tensorflow.clipping.loss_scale import FLOAT16_SCALE
from keras_dp.backend.tensorflow.clipping.state import trace_example
from keras_dp.backend.trace import ExampleTrace

undistributed = contextlib.nullcontext


def placement():
    class One:
        mesh = None
        shards = 1
        spread = False
        misplaced = staticmethod(lambda variables: [])

    return One()


def __getattr__(name):  # stub until the rest is merged
    from keras_dp.backend import _NAMES, Report

    if name in _NAMES:
        return Report if name == "Report" else (lambda *a, **k: contextlib.nullcontext())
    raise AttributeError(name)


from keras_dp.backend import _NAMES as __all__
