"""Which way each group of weights is measured."""

import math
from typing import Any

from keras_dp.backend.jax.clipping.jaxpr import rules
from keras_dp.backend.jax.clipping.jaxpr.origins import Origins
from keras_dp.backend.jax.clipping.jaxpr.pieces import Measured, Part, Piece, Pulled, measurable
from keras_dp.backend.jax.clipping.jaxpr.program import Env, Region
from keras_dp.backend.jax.clipping.jaxpr.regions import Passage, Rematerialised
from keras_dp.backend.jax.clipping.jaxpr.sites import Analysis
from keras_dp.backend.jax.clipping.jaxpr.standardised import Standardised, standardised_kernel
from keras_dp.backend.jax.clipping.jaxpr.tapped import Flow
from keras_dp.backend.jax.clipping.jaxpr.views import find_views


def make_pieces(analysis: Analysis, known: Env, passed: Flow) -> list[Piece]:
    """Sort the sites' gradients by weight and choose how each group is measured.

    Args:
        analysis: The program.
        known: Values of weights, and of all that comes from weights and constants.
        passed: What flowed through the sites.
    """
    parts = _parts(analysis, known, passed)
    origins = Origins(analysis)
    views = find_views(analysis.weights, analysis.from_weights)
    pieces: list[Piece] = []
    for weights, values in origins.groups([part.value for part in parts]):
        members = tuple(part for part in parts if part.value in values)
        chain = origins.chain(values)
        joined = measurable(list(members), views)
        if joined is not None:
            pieces.append(Measured(analysis, known, weights, tuple(joined), chain, views))
            continue
        named = [(position, analysis.weights[position]) for position in weights]
        kernel = standardised_kernel(members, chain, known, named)
        if kernel is None:
            pieces.append(Pulled(analysis, known, weights, members, chain))
        else:
            pieces.append(Standardised(analysis, known, weights, members, chain, kernel))
    return pieces


def _parts(analysis: Analysis, known: Env, passed: Flow) -> list[Part]:
    """Return the gradients of every weight value at every site."""
    found: list[Part] = []
    for site in analysis.sites.values():
        depth = len(site.loops)
        data, cotangents = (
            [_one_turn_axis(array, depth) for array in arrays[site]]
            for arrays in (passed.data, passed.cotangents)
        )
        seen = dict(zip(site.data, data, strict=True))
        uses = [
            rules.Use(site.equation, weight, site.weights, known, seen, cotangents)
            for weight in site.weights
        ]
        if isinstance(site.equation, Region):
            passage = Passage(uses[0], make_pieces)
            gradients: list[rules.Gradients] = [Rematerialised(use, passage) for use in uses]
        else:
            gradients = [rules.gradients(use) for use in uses]
        parts = zip(site.weights, gradients, strict=True)
        found.extend(Part(weight, each, site.equation.name) for weight, each in parts)
    return found


def _one_turn_axis(array: Any, depth: int) -> Any:
    """Merge the axes of all loops around a site into one, of length 1 outside of loops."""
    turns = math.prod(array.shape[1 : 1 + depth])
    return array.reshape(array.shape[0], turns, *array.shape[1 + depth :])
