"""How the examples of an update are drawn, and what the accountant composes for it."""

from keras_dp.sampling.base import Sampler
from keras_dp.sampling.full_batch import FullBatch
from keras_dp.sampling.poisson import Poisson
from keras_dp.sampling.registry import SAMPLERS, resolve
from keras_dp.sampling.source import ArraySource

__all__ = ["SAMPLERS", "ArraySource", "FullBatch", "Poisson", "Sampler", "resolve"]
