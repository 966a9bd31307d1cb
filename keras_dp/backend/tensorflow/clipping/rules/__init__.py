"""How gradients follow from cotangents, one module for each family of operations."""

from keras_dp.backend.tensorflow.clipping.rules import convolution, elementwise, outer
from keras_dp.backend.tensorflow.clipping.rules.base import RULES, Rule, find_rule

__all__ = ["RULES", "Rule", "convolution", "elementwise", "find_rule", "outer"]
