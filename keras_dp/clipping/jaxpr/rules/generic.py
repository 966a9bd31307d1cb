"""The rule for all operations without one: every example's gradient by the operation's own vjp."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from keras_dp.clipping.jaxpr.rules import norms
from keras_dp.clipping.jaxpr.rules.base import Cost, Factors, Gradients, Use, sum_along


@dataclass(frozen=True)
class Full(Gradients):
    """Gradients that are written out.

    Attributes:
        rows: float32 of shape `(batch, *shape of the value)`.
        rule: Name for the report.
    """

    rows: Any
    rule: str = "written out"

    def full(self) -> Any:
        """Return every example's gradient."""
        return self.rows

    def squared_norms(self) -> Any:
        """Return the squared norm of every example's gradient."""
        return norms.of_rows(self.rows)

    def weighted_sum(self, factors: Factors) -> Any:
        """Return the sum of the gradients, each multiplied with its factor."""
        return factors.contract(self.rows)

    @property
    def cost(self) -> Cost:
        """What the norms take."""
        size = math.prod(self.rows.shape)
        return Cost(self.rule, 2 * size, 4 * size)


def generic(use: Use) -> Full:
    """Write out the gradients of any operation; right for every one, at the cost of `vmap`."""
    values = tuple(use.data)

    def one(data: Sequence[Any], cotangents: Sequence[Any]) -> Any:
        env = {**use.known, **dict(zip(values, data, strict=True))}
        reads = use.equation.reads

        def operation(weights: list[Any]) -> list[Any]:
            inner = {**env, **dict(zip(use.weights, weights, strict=True))}
            results = use.equation.evaluate(*(inner[value] for value in reads))
            return [r for r in results if jnp.issubdtype(r.dtype, jnp.inexact)]

        # All weights at once, even if one is asked for: some operations cannot be differentiated
        # with respect to a part of them.
        _, pull = jax.vjp(operation, [use.known[weight] for weight in use.weights])
        gradient = pull(list(cotangents))[0][use.weights.index(use.weight)]
        return gradient if jnp.iscomplexobj(gradient) else gradient.astype(jnp.float32)

    rows = jax.vmap(jax.vmap(one))(list(use.data.values()), list(use.cotangents))
    return Full(sum_along(rows, 1))
