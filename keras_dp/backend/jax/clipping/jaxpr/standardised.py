"""Kernels that are standardised before use, in closed form: no gradient is written out.

With a kernel `k` in use as `a k + b` (see `channels`), `D` the gradient there and `k_c` the kernel
less its mean, all for one output channel, the gradient of the kernel is

`a D + u 1 + v k_c`, with `u = p_a s_k + p_b s_1` and `v = q_a s_k + q_b s_1`,

where `s_1 = <1, D>`, `s_k = <k, D>`, and `p`, `q` are the parts of the gradients of `a` and `b`
along 1 and `k_c`; they have no others, since `a` and `b` are made of sums of entries and of
squares. So `|D|`, `s_1` and `s_k` of each channel tell the norm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from keras_dp.backend.jax.clipping.jaxpr.channels import affine_form
from keras_dp.backend.jax.clipping.jaxpr.pieces import Part, Piece, is_narrow
from keras_dp.backend.jax.clipping.jaxpr.program import Equation, Value
from keras_dp.backend.jax.clipping.jaxpr.rules import Convolved, Cost, Factors, norms


@dataclass(frozen=True, eq=False)
class Standardised(Piece):
    """A convolution's kernel in use as `a * kernel + b`, and the weights that `a` and `b` read.

    Attributes:
        kernel: Position of the kernel among all weights.
    """

    kernel: int

    def squared_norms(self) -> dict[int, Any]:
        """Measure the kernel by the closed form, the other weights by their own small gradients."""
        weights = [self.known[self.analysis.weights[position]] for position in self.weights]
        own = self.weights.index(self.kernel)
        (a, _), back = jax.vjp(self._coefficients, weights)
        kernel = self._rows(weights[own])
        mean = jnp.mean(kernel, axis=0)
        centred = kernel - mean
        ones = jnp.ones_like(a)
        parts = [
            _along(self._rows(back(cotangents)[0][own]), centred)
            for cotangents in ((ones, 0 * ones), (0 * ones, ones))
        ]
        s_1, s_k = self._products
        u, v = (pa * s_k + pb * s_1 for pa, pb in zip(*parts, strict=True))
        count, size = kernel.shape[0], jnp.sum(jnp.square(centred), axis=0)
        scaled = self._gradients.scaled_squared_norms(a)
        added = u**2 * count + v**2 * size + 2 * a * (u * s_1 + v * (s_k - mean * s_1))
        apart = scaled + jnp.sum(u**2 * count + v**2 * size, axis=1)
        squares = {self.kernel: norms.guarded(scaled + jnp.sum(added, axis=1), apart)}
        others = jax.vmap(lambda by_k, by_1: back((by_k, by_1))[0])(s_k, s_1)
        for position, rows in zip(self.weights, others, strict=True):
            if position != self.kernel:
                squares[position] = norms.of_rows(rows)
        return squares

    def cost(self, part: Part) -> Cost:
        """Name the closed form."""
        cost = part.gradients.cost
        return replace(cost, rule=f"{cost.rule}, standardised")

    def weighted_sum(self, factors: Sequence[Factors]) -> dict[int, Any]:
        """Sum where the kernel is used, once for each layer, and bring the sums back."""
        sums: dict[int, list[Any]] = {}
        for position in self.weights:
            factor = factors[position]
            if id(factor) not in sums:
                total = self._gradients.weighted_sum(factor)
                sums[id(factor)] = self.pull([self.parts[0].value], [total])
        return {position: sums[id(factors[position])][i] for i, position in enumerate(self.weights)}

    @property
    def _gradients(self) -> Convolved:
        gradients = self.parts[0].gradients
        if not isinstance(gradients, Convolved):
            raise TypeError(f"{type(gradients).__name__} has no closed form")
        return gradients

    @property
    def _products(self) -> tuple[Any, Any]:
        """`s_1` and `s_k`: `<1, D>` and `<k, D>` for each example and channel."""
        kernel = self.known[self.analysis.weights[self.kernel]]
        axis = self._gradients.channel_axis
        one_channel = jnp.ones([1 if i == axis else n for i, n in enumerate(kernel.shape)])
        return self._gradients.products(one_channel), self._gradients.products(kernel)

    def _coefficients(self, weights: Sequence[Any]) -> tuple[Any, Any]:
        env = self.derived(weights)
        kernel, axis = self.analysis.weights[self.kernel], self._gradients.channel_axis
        form = affine_form(self.chain, env, kernel, self.parts[0].value, axis)
        if form is None:
            raise ValueError("the kernel is not in use as `a * kernel + b`")
        return tuple(self._rows(jnp.broadcast_to(c, kernel.shape))[0] for c in (form.a, form.b))

    def _rows(self, kernel: Any) -> Any:
        """Bring a kernel to the shape `(entries of a channel, channels)`."""
        axis = self._gradients.channel_axis
        return jnp.moveaxis(kernel, axis, -1).reshape(-1, kernel.shape[axis])


def _along(gradient: Any, centred: Any) -> tuple[Any, Any]:
    """Return the parts of gradients, one a channel, along 1 and along the centred kernel."""
    size = jnp.sum(jnp.square(centred), axis=0)
    product = jnp.sum(gradient * centred, axis=0)
    return jnp.mean(gradient, axis=0), jnp.where(
        size > 0, product / jnp.where(size > 0, size, 1), 0
    )


def standardised_kernel(
    parts: Sequence[Part],
    chain: Sequence[Equation],
    known: dict[Value, Any],
    weights: Sequence[tuple[int, Value]],
) -> int | None:
    """Return the position of the kernel if the closed form holds, else `None`.

    Args:
        parts: The gradients of the group of weights.
        chain: The equations from the weights to the values in use.
        known: Values of all of them.
        weights: Positions and values of the group's weights.
    """
    if len(parts) != 1 or any(is_narrow(value) for e in chain for value in e.reads):
        return None
    value, gradients, _ = parts[0]
    if not isinstance(gradients, Convolved) or not gradients.by_gram:
        return None
    axis = gradients.channel_axis
    for position, weight in weights:
        if weight.shape == value.shape and affine_form(chain, known, weight, value, axis):
            return position
    return None
