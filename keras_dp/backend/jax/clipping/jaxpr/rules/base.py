"""What a rule makes of a site: the gradients of one weight value, one for each example."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import jax.numpy as jnp

from keras_dp.backend.jax.clipping.jaxpr.program import Env, Equation, Value
from keras_dp.backend.jax.clipping.jaxpr.rules import norms, slices
from keras_dp.backend.jax.clipping.jaxpr.sums import sum_along


@dataclass(frozen=True)
class Use:
    """One weight value read by one site, with what flowed there.

    Attributes:
        equation: The operation.
        weight: The value whose gradients are asked for.
        weights: All values from weights that the operation reads, this one among them.
        known: Values of all that comes from weights and constants.
        data: What the site read that depends on the example: arrays of shape
            `(batch, turns, ...)`, where a turn is one pass through the loops around the site.
        cotangents: The gradients that arrived at its outputs, of the same leading shape.
    """

    equation: Equation
    weight: Value
    weights: tuple[Value, ...]
    known: Env
    data: dict[Value, Any]
    cotangents: Sequence[Any]


@dataclass(frozen=True)
class Cost:
    """What the norms of one weight's gradients take beyond ordinary training.

    Attributes:
        rule: Name of the way that was chosen.
        flops: Floating point operations for the batch.
        bytes: Memory for what is kept until the weighted sum.
        working_bytes: Memory for copies and Gram matrices while the norms are computed.
    """

    rule: str
    flops: int
    bytes: int
    working_bytes: int = 0


class Gradients(ABC):
    """The gradients of one weight value at one site, for a batch, never written out if possible."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of all gradients, `(batch, *shape of the value)`."""

    @abstractmethod
    def change_rows(self, change: Callable[[Any], Any]) -> Self:
        """Return the gradients that follow when every array with a batch axis is changed alike."""

    @abstractmethod
    def full(self) -> Any:
        """Return every example's gradient: float32 of shape `(batch, *shape of the value)`."""

    @abstractmethod
    def weighted_sum(self, factors: "Factors") -> Any:
        """Return `sum_i factor_i * gradient_i`, float32 of the value's shape."""

    @abstractmethod
    def squared_norms(self) -> Any:
        """Return `|gradient_i|^2`, float32 of shape `(batch,)`."""

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """What the norms take."""

    @property
    def extent(self) -> tuple[int, int]:
        """Number of examples, and of numbers in each gradient."""
        batch, *value = self.shape
        return batch, math.prod(value)

    @property
    def fits(self) -> bool:
        """Whether the gradients of all examples may be written out and kept."""
        return slices.fit(*self.extent)

    def take(self, start: Any, size: int) -> Self:
        """Return the gradients of `size` examples from `start` on."""
        if size == self.shape[0]:
            return self  # with all that it has computed
        return self.change_rows(lambda rows: slices.take(rows, start, size))

    def norms_of_full(self) -> Any:
        """Return squared norms of gradients that are written out, a slice at a time if need be."""
        return slices.join(
            lambda start, size: norms.of_rows(self.take(start, size).full()), *self.extent
        )


@dataclass(frozen=True)
class Factors:
    """What each example's gradient is multiplied with in the sum.

    An example that is to add nothing may be NaN or infinite somewhere, and 0 times NaN is NaN, so
    its rows are taken out wherever rows meet factors.

    Attributes:
        values: float32 of shape `(batch,)`, 0 for an example that is to add nothing.
        clean: Whether all examples are finite, a traced boolean.
    """

    values: Any
    clean: Any

    def keep(self, rows: Any) -> Any:
        """Return the rows, with zeros for examples that are to add nothing."""
        return jnp.where(self._along(rows) > 0, rows, jnp.zeros((), rows.dtype))

    def scale(self, rows: Any) -> Any:
        """Return `factor_i * rows_i`, float32."""
        factors = self._along(rows)
        return jnp.where(factors > 0, factors * rows, 0.0)

    def take(self, start: Any, size: int) -> "Factors":
        """Return the factors of `size` examples from `start` on."""
        return replace(self, values=slices.take(self.values, start, size))

    def contract(self, rows: Any) -> Any:
        """Return `sum_i factor_i * rows_i`, float32."""
        return sum_along(self.scale(rows), 0)

    def _along(self, rows: Any) -> Any:
        return self.values.reshape(self.values.shape + (1,) * (rows.ndim - 1))


def put_back(rows: Any, order: Sequence[int]) -> Any:
    """Undo `transpose(order)` of the last axes; axes before them stay in front."""
    ahead = rows.ndim - len(order)
    back = sorted(range(len(order)), key=order.__getitem__)
    return rows.transpose(*range(ahead), *(ahead + axis for axis in back))
