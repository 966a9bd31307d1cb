"""Rules: how the gradients of a weight are had from what a site read and what arrived there."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from keras_dp.backend.jax.clipping.jaxpr.compat import primitives
from keras_dp.backend.jax.clipping.jaxpr.rules.base import Cost, Factors, Gradients, Use
from keras_dp.backend.jax.clipping.jaxpr.rules.convolution import Convolved, convolution
from keras_dp.backend.jax.clipping.jaxpr.rules.embedding import embedding
from keras_dp.backend.jax.clipping.jaxpr.rules.generic import Generic
from keras_dp.backend.jax.clipping.jaxpr.rules.outer import Outer, cross_products, dense, join

__all__ = [
    "Convolved",
    "Cost",
    "Factors",
    "Generic",
    "Gradients",
    "Outer",
    "Use",
    "cross_products",
    "gradients",
    "join",
]

RULES: dict[Any, Callable[[Use], Gradients | None]] = {
    primitives.conv_general_dilated_p: convolution,
    primitives.dot_general_p: dense,
    primitives.gather_p: embedding,
}
"""Rules by JAX primitive. All else, and what a rule does not know, has the generic rule."""


def gradients(use: Use) -> Gradients:
    """Return the gradients of one weight value at one site."""
    rule = RULES.get(use.equation.primitive)
    arrays = (*use.data.values(), *use.cotangents, use.known[use.weight])
    covered = rule is not None and all(a.size and not jnp.iscomplexobj(a) for a in arrays)
    found = rule(use) if rule is not None and covered else None
    return Generic(use) if found is None else found
