"""How an example's gradient is scaled down, and what that bounds."""

from keras_dp.clip_rules.factors import Clip, layers_of, numbered
from keras_dp.clip_rules.rules import (
    CLIP_RULES,
    AdaptiveQuantile,
    Automatic,
    ClipRule,
    Flat,
    PerLayer,
    UnitNorm,
    resolve,
)

__all__ = [
    "CLIP_RULES",
    "AdaptiveQuantile",
    "Automatic",
    "Clip",
    "ClipRule",
    "Flat",
    "PerLayer",
    "UnitNorm",
    "layers_of",
    "numbered",
    "resolve",
]
