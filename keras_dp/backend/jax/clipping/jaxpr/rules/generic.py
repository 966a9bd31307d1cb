"""The rule for all operations without one: every example's gradient by the operation's own vjp."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from keras_dp.backend.jax.clipping.jaxpr.rules import slices
from keras_dp.backend.jax.clipping.jaxpr.rules.base import Cost, Factors, Gradients, Use
from keras_dp.backend.jax.clipping.jaxpr.sums import sum_along


@dataclass(frozen=True)
class Generic(Gradients):
    """Gradients of any operation, which are written out.

    Attributes:
        use: The operation and what flowed there.
    """

    use: Use

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all gradients."""
        return (self.use.cotangents[0].shape[0], *self.use.weight.shape)

    def change_rows(self, change: Callable[[Any], Any]) -> "Generic":
        """Change what flowed at the site."""
        data = {value: change(rows) for value, rows in self.use.data.items()}
        cotangents = [change(rows) for rows in self.use.cotangents]
        return Generic(replace(self.use, data=data, cotangents=cotangents))

    def full(self) -> Any:
        """Return every example's gradient."""
        return self._full

    def squared_norms(self) -> Any:
        """Return the squared norm of every example's gradient."""
        return self.norms_of_full()

    def weighted_sum(self, factors: Factors) -> Any:
        """Return the sum of the gradients, each multiplied with its factor."""
        return slices.add(
            lambda start, size: factors.take(start, size).contract(self.take(start, size).full()),
            *self.extent,
        )

    @property
    def cost(self) -> Cost:
        """What the norms take."""
        size = math.prod(self.shape)
        return Cost("written out", 2 * size, 4 * size)

    @cached_property
    def _full(self) -> Any:
        use, values = self.use, tuple(self.use.data)

        def turn(weights: Sequence[Any], data: Sequence[Any]) -> list[Any]:
            env = {**use.known, **dict(zip(use.weights, weights, strict=True))}
            env.update(zip(values, data, strict=True))
            results = use.equation.evaluate(*(env[value] for value in use.equation.reads))
            return [r for r in results if jnp.issubdtype(r.dtype, jnp.inexact)]

        def gradient(data: Sequence[Any], cotangents: Sequence[Any]) -> Any:
            turns = jax.vmap(turn, (None, 0), axis_size=cotangents[0].shape[0])
            _, pull = jax.vjp(lambda weights: turns(weights, data), known)
            found = pull(list(cotangents))[0][use.weights.index(use.weight)]
            return found if jnp.iscomplexobj(found) else found.astype(jnp.float32)

        # All weights at once, even if one is asked for: some operations cannot be differentiated
        # with respect to a part of them.
        known = [use.known[weight] for weight in use.weights]

        flowed = list(use.data.values()), list(use.cotangents)
        if math.prod(use.weight.shape) > sum(math.prod(g.shape[2:]) for g in use.cotangents):
            return jax.vmap(gradient)(*flowed)
        each = jax.tree.map(lambda rows: rows[:, :, None], flowed)
        return sum_along(jax.vmap(jax.vmap(gradient))(*each), 1)
