"""Gradients of weights, put together from the sites through which they act.

A weight whose every use keeps norms on the way back (a view) is measured where it is used. Others,
such as weights that are standardised before use, are pulled back to the weights for each example.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from keras_dp.backend.jax.clipping.jaxpr import rules
from keras_dp.backend.jax.clipping.jaxpr.compat import primitives
from keras_dp.backend.jax.clipping.jaxpr.program import Env, Equation, Value, run
from keras_dp.backend.jax.clipping.jaxpr.rules import norms, slices
from keras_dp.backend.jax.clipping.jaxpr.sites import Analysis
from keras_dp.backend.jax.clipping.jaxpr.views import View

Axes = tuple[int | None, ...]


class Part(NamedTuple):
    """The gradients of one value that sites read and that comes from weights.

    Attributes:
        value: The value.
        gradients: Its gradients, one for each example.
        operation: Name of the sites' operation.
    """

    value: Value
    gradients: rules.Gradients
    operation: str


@dataclass(frozen=True, eq=False)
class Piece:
    """The per-example gradients of some weights, which no other piece holds.

    Attributes:
        analysis: The program.
        known: Values of weights, and of all that comes from weights and constants.
        weights: Positions of the weights.
        parts: For each value that sites read, the gradients there.
        chain: The equations that compute these values from the weights.
    """

    analysis: Analysis
    known: Env
    weights: tuple[int, ...]
    parts: tuple[Part, ...]
    chain: tuple[Equation, ...]

    def squared_norms(self) -> dict[int, Any]:
        """For each weight, by position, `|gradient_i|^2` of every example, shape `(batch,)`."""
        raise NotImplementedError

    def cost(self, part: Part) -> rules.Cost:
        """Return what the norms take because of one of the parts."""
        return part.gradients.cost

    def weighted_sum(self, factors: Sequence[rules.Factors]) -> dict[int, Any]:
        """Return `sum_i factor_i * gradient_i` for each weight, by position.

        Args:
            factors: For every weight of the program, what its gradients are multiplied with.
        """
        raise NotImplementedError

    def by_value(self, compute: Callable[[rules.Gradients], Any]) -> dict[Value, Any]:
        """Compute something of every part and add up those of one value."""
        totals: dict[Value, Any] = {}
        for value, gradients, _ in self.parts:
            total = compute(gradients)
            totals[value] = totals[value] + total if value in totals else total
        return totals

    @property
    def is_linear_in_float32(self) -> bool:
        """Whether the way back from a sum to the weights is linear, and not rounded to less."""
        passed = (value for equation in self.chain for value in equation.reads)
        narrow = any(is_narrow(value) for value in (*passed, *(p.value for p in self.parts)))
        return not narrow and all(equation.is_plain for equation in self.chain)

    def derived(self, weights: Sequence[Any]) -> Env:
        """Return all that comes from weights, for given values of those of this piece."""
        targets = (self.analysis.weights[position] for position in self.weights)
        env = {**self.known, **dict(zip(targets, weights, strict=True))}
        run(self.chain, env)
        return env

    def pull(self, values: Sequence[Value], gradients: Sequence[Any]) -> list[Any]:
        """Turn gradients of the values that sites read into gradients of the weights."""
        targets = [self.analysis.weights[position] for position in self.weights]
        if list(values) == targets and not self.chain:
            return list(gradients)

        def derive(weights: Sequence[Any]) -> list[Any]:
            env = self.derived(weights)
            return [env[value] for value in values]

        derived, back = jax.vjp(derive, [self.known[target] for target in targets])
        cotangents = [g.astype(d.dtype) for g, d in zip(gradients, derived, strict=True)]
        return [g.astype(jnp.float32) for g in back(cotangents)[0]]


@dataclass(frozen=True, eq=False)
class Measured(Piece):
    """One weight, measured where it is used.

    Attributes:
        views: How each part's value is seen from the weight.
    """

    views: dict[Value, View]

    def squared_norms(self) -> dict[int, Any]:
        """Add up the squares of all parts, and twice the products of those that overlap."""
        squares = [part.gradients.squared_norms() for part in self.parts]
        total = sum(squares)
        if len(squares) == 1:
            return {self.weights[0]: total}
        for i, part in enumerate(self.parts):
            for other in self.parts[:i]:
                if not self.views[part.value].disjoint(self.views[other.value]):
                    total = total + 2 * _product(part, other, self.views)
        apart = jnp.square(sum(jnp.sqrt(square) for square in squares))
        return {self.weights[0]: norms.guarded(total, apart)}

    def weighted_sum(self, factors: Sequence[rules.Factors]) -> dict[int, Any]:
        """Sum where the weight is used and bring the sums back to the weight."""
        position = self.weights[0]
        totals = self.by_value(lambda gradients: gradients.weighted_sum(factors[position]))
        return {position: self._without_casts.pull(list(totals), list(totals.values()))[0]}

    @property
    def _without_casts(self) -> "Measured":
        """The same with the weight in float32 in every layout.

        A sum that was rounded to the precision of its use could jump by more than the clip norm
        when one example is left out. tests/backend/jax/clipping/test_low_precision.py holds it.
        """
        weight = self.analysis.weights[self.weights[0]]
        wide = self.known[weight].astype(jnp.promote_types(weight.dtype, jnp.float32))
        chain = tuple(
            Equation(None, {}, e.inputs, e.outputs)
            if e.primitive is primitives.convert_element_type_p
            else e
            for e in self.chain
        )
        return replace(self, known={**self.known, weight: wide}, chain=chain)


@dataclass(frozen=True, eq=False)
class Pulled(Piece):
    """Weights whose gradients are written out and pulled back for each example."""

    def squared_norms(self) -> dict[int, Any]:
        """Square the weights' own gradients, of as many examples at a time as fit memory."""

        def squares(start: Any, size: int) -> list[Any]:
            return [norms.of_rows(rows) for rows in self._take(start, size).rows]

        return self._named(slices.join(squares, *self._extent))

    def cost(self, part: Part) -> rules.Cost:
        """Add what it takes to write a part's gradients out."""
        cost, size = part.gradients.cost, 4 * math.prod(part.value.shape)
        return replace(
            cost,
            rule=f"{cost.rule}, pulled back",
            flops=cost.flops + size,
            bytes=max(cost.bytes, size),
        )

    def weighted_sum(self, factors: Sequence[rules.Factors]) -> dict[int, Any]:
        """Return the sums, pulled back after the sum where that is equal and no more work."""
        own = [factors[position] for position in self.weights]
        together = all(factor is own[0] for factor in own) and self.is_linear_in_float32
        if together and not slices.fit(*self._extent):
            totals = self.by_value(lambda gradients: gradients.weighted_sum(own[0]))
            return self._named(self.pull(list(totals), list(totals.values())))
        if together and self._derived <= self._own:
            totals = {value: own[0].contract(rows) for value, rows in self.full.items()}
            return self._named(self.pull(list(totals), list(totals.values())))

        def sums(start: Any, size: int) -> list[Any]:
            rows = self._take(start, size).rows
            return [f.take(start, size).contract(row) for f, row in zip(own, rows, strict=True)]

        return self._named(slices.add(sums, *self._extent))

    @cached_property
    def full(self) -> dict[Value, Any]:
        """The gradients of every value that sites read."""
        return self.by_value(lambda gradients: gradients.full())

    @cached_property
    def rows(self) -> list[Any]:
        """The gradients of every weight, each with a leading batch axis."""
        values = list(self.full)
        return jax.vmap(lambda rows: self.pull(values, rows))(list(self.full.values()))

    def _take(self, start: Any, size: int) -> "Pulled":
        if size == self._extent[0]:
            return self  # with all that it has computed
        parts = (part._replace(gradients=part.gradients.take(start, size)) for part in self.parts)
        return replace(self, parts=tuple(parts))

    def _named(self, arrays: Sequence[Any]) -> dict[int, Any]:
        return dict(zip(self.weights, arrays, strict=True))

    @property
    def _extent(self) -> tuple[int, int]:
        """Number of examples, and of numbers that are written out for each."""
        return self.parts[0].gradients.shape[0], self._derived + self._own

    @property
    def _derived(self) -> int:
        return sum(math.prod(value.shape) for value in {part.value for part in self.parts})

    @property
    def _own(self) -> int:
        return sum(math.prod(self.analysis.weights[i].shape) for i in self.weights)


def is_narrow(value: Value) -> bool:
    """Whether a value has fewer bits than a sum may be rounded to."""
    return jnp.issubdtype(value.dtype, jnp.floating) and value.dtype.itemsize < 4


def measurable(parts: list[Part], views: dict[Value, View]) -> list[Part] | None:
    """Return the parts with those of one layout joined, if norms can be taken where they are."""
    if not all(part.value in views for part in parts):
        return None
    by_value: dict[Value, list[Part]] = {}
    for part in parts:
        by_value.setdefault(part.value, []).append(part)
    joined: list[Part] = []
    for members in by_value.values():
        merged = _joined(members)
        if merged is None:
            return None
        joined.extend(merged)
    for i, part in enumerate(joined):
        if not all(_comparable(part, other, views) for other in joined[:i]):
            return None
    return joined


def _joined(parts: list[Part]) -> list[Part] | None:
    """Put the uses of one value together as further positions."""
    outers = [part.gradients for part in parts if isinstance(part.gradients, rules.Outer)]
    if len(parts) == 1:
        return parts
    if len(outers) < len(parts):
        return None
    return [Part(parts[0].value, one, parts[0].operation) for one in rules.join(outers)]


def _comparable(part: Part, other: Part, views: dict[Value, View]) -> bool:
    """Whether the product of two uses is known: no common entry, or factors on the same axes."""
    view, other_view = views[part.value], views[other.value]
    if view.disjoint(other_view):
        return True
    runs, other_runs = _runs(part, view), _runs(other, other_view)
    if runs is None or other_runs is None or view.region != other_view.region:
        return False
    return runs in (other_runs, other_runs[::-1])


def _product(part: Part, other: Part, views: dict[Value, View]) -> Any:
    """Return `<gradient of part, gradient of other>` for each example."""
    a, b = part.gradients, other.gradients
    if not (isinstance(a, rules.Outer) and isinstance(b, rules.Outer)):
        raise TypeError(f"no product of {type(a).__name__} and {type(b).__name__}")
    swapped = _runs(part, views[part.value]) != _runs(other, views[other.value])
    return rules.cross_products(a, b, swapped=swapped)


def _runs(part: Part, view: View) -> tuple[Axes, Axes] | None:
    """Return the axes of the weight along which the two factors of a part run."""
    gradients, axes = part.gradients, view.axes
    if not isinstance(gradients, rules.Outer) or axes is None or gradients.layout.blocks:
        return None
    left, right = (
        tuple(axes[axis] for axis in side if axes[axis] is not None)
        for side in (gradients.layout.left, gradients.layout.right)
    )
    return left, right
