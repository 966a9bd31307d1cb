"""Rematerialised parts of a model: what happens within is computed again, not kept.

Book-keeping keeps what every site read and the gradient that arrived there. For a region it keeps
what the region read and the gradient that arrived at its results. Norms, and then the sums, come
from going through the region once more, forward and backward, as for a whole model.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax.numpy as jnp

from keras_dp.backend.jax.clipping.jaxpr.again import again
from keras_dp.backend.jax.clipping.jaxpr.program import Program, Region, run
from keras_dp.backend.jax.clipping.jaxpr.rules import Factors, Generic, Use
from keras_dp.backend.jax.clipping.jaxpr.sites import Analysis, analyse, differentiable
from keras_dp.backend.jax.clipping.jaxpr.tapped import Flow, flow

MakePieces = Callable[[Analysis, Any, Flow], list[Any]]


@dataclass(frozen=True, eq=False)
class Passage:
    """All ways through a region, for the gradients of all weights that it reads.

    Attributes:
        use: The region, and what flowed there.
        make_pieces: How the sites within are measured.
    """

    use: Use
    make_pieces: MakePieces
    _sums: dict[int, list[Any]] = field(default_factory=dict)

    @cached_property
    def squared_norms(self) -> list[Any]:
        """For each weight, the squared norms of all examples."""
        nothing = [jnp.zeros(len(self.use.cotangents[0]), jnp.float32)] * len(self.use.weights)
        return self._through(lambda piece, _: piece.squared_norms(), nothing, None)

    def weighted_sums(self, factors: Factors) -> list[Any]:
        """For each weight, the sum of its gradients, each multiplied with its factor."""
        nothing = [jnp.zeros(weight.shape, jnp.float32) for weight in self.use.weights]

        def add(piece: Any, given: tuple[Any, Any]) -> dict[int, Any]:
            alike = [Factors(*given)] * len(nothing)
            return dict(piece.weighted_sum(alike))

        if id(factors) not in self._sums:
            given = factors.values, factors.clean
            self._sums[id(factors)] = self._through(add, nothing, given)
        return self._sums[id(factors)]

    def _through(self, compute: Callable[..., Any], nothing: list[Any], extra: Any) -> list[Any]:
        """Go through the region and compute something of each piece of its gradients."""
        use, analysis = self.use, self._analysis

        def passage(data: list[Any], cotangents: list[Any], extra: Any) -> list[Any]:
            known = dict(use.known)
            run((*analysis.fixed, *analysis.from_weights), known)
            passed = flow(analysis, known, data, len(cotangents[0]), cotangents)
            found = dict(enumerate(nothing))
            for piece in self.make_pieces(analysis, known, passed):
                found.update(compute(piece, extra))
            return list(found.values())

        one_turn = [[rows[:, 0] for rows in part] for part in (use.data.values(), use.cotangents)]
        return list(again(passage, *one_turn, extra))

    @cached_property
    def _analysis(self) -> Analysis:
        region = self.use.equation
        if not isinstance(region, Region):
            raise TypeError(f"{region.name} is no region")
        inputs = (*self.use.weights, *self.use.data)
        program = Program(inputs, {}, region.equations, region.outputs)
        results = [i for i, value in enumerate(region.outputs) if differentiable(value)]
        return analyse(program, len(self.use.weights), results)


@dataclass(frozen=True)
class Rematerialised(Generic):
    """The gradients of one weight that a region reads.

    Attributes:
        passage: The ways through the region, shared by all its weights.
    """

    passage: Passage

    def squared_norms(self) -> Any:
        """Return the squared norm of every example's gradient."""
        return self.passage.squared_norms[self._position]

    def weighted_sum(self, factors: Factors) -> Any:
        """Return the sum of the gradients, each multiplied with its factor."""
        return self.passage.weighted_sums(factors)[self._position]

    @property
    def _position(self) -> int:
        return self.use.weights.index(self.use.weight)
