"""The engine: from a loss to the clipped sum, with one forward and one backward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from keras_dp.backend.jax.clipping.jaxpr.grouping import make_pieces
from keras_dp.backend.jax.clipping.jaxpr.pieces import Piece
from keras_dp.backend.jax.clipping.jaxpr.program import Env, make_program, run
from keras_dp.backend.jax.clipping.jaxpr.rules import Factors
from keras_dp.backend.jax.clipping.jaxpr.sites import Analysis, analyse
from keras_dp.backend.jax.clipping.jaxpr.tapped import flow
from keras_dp.clip_rules.factors import Clip
from keras_dp.types import ClippedSum, Tree


@dataclass(frozen=True)
class Traced:
    """A loss, traced for one example.

    Attributes:
        analysis: Its program, divided by colour.
        known: Values of its constants.
        outputs: Tree of the shapes of its result.
    """

    analysis: Analysis
    known: Env
    outputs: Any


def trace(loss_fn: Callable[..., Any], params: Tree, batch: Tree) -> Traced:
    """Trace the loss of one example and find where weights meet data."""
    example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), batch)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    program, outputs = make_program(loss_fn, shapes, example, regions=True)
    return Traced(analyse(program, len(jax.tree.leaves(params))), dict(program.constants), outputs)


def clipped_sum(
    loss_fn: Callable[[Tree, Tree], tuple[Any, Tree]],
    params: Tree,
    batch: Tree,
    mask: Any,
    clip: Clip,
) -> ClippedSum:
    """Clip each example's gradient and sum, see `keras_dp.clipping.clipped_sum`."""
    params, batch = jax.tree.map(jnp.asarray, (params, batch))
    traced = trace(loss_fn, params, batch)
    leaves, structure = jax.tree.flatten(params)
    pieces, outputs = take_apart(traced, leaves, jax.tree.leaves(batch), len(mask))
    squares = [jnp.zeros(mask.shape, jnp.float32)] * len(leaves)
    for piece in pieces:
        for position, square in piece.squared_norms().items():
            squares[position] = square
    norms, values = clip.apply(squares, mask)
    clean = jnp.all(jnp.isfinite(norms))
    shared = {id(value): Factors(value, clean) for value in values}
    factors = [shared[id(value)] for value in values]
    sums = [jnp.zeros(leaf.shape, jnp.float32) for leaf in leaves]
    for piece in pieces:
        for position, total in piece.weighted_sum(factors).items():
            sums[position] = total
    losses, aux = jax.tree.unflatten(jax.tree.structure(traced.outputs), outputs)
    return ClippedSum(jax.tree.unflatten(structure, sums), norms, losses, aux)


def take_apart(
    traced: Traced, weights: Sequence[Any], batch: Sequence[Any], size: int
) -> tuple[list[Piece], list[Any]]:
    """Run one forward and backward pass and return the gradients, piece by piece, and outputs."""
    analysis = traced.analysis
    known = {**traced.known, **dict(zip(analysis.weights, weights, strict=True))}
    run(analysis.fixed, known)
    run(analysis.from_weights, known)
    passed = flow(analysis, known, batch, size)
    return make_pieces(analysis, known, passed), passed.outputs
