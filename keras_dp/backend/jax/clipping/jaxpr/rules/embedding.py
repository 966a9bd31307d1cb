"""Look-up of rows in a table, as by `keras.layers.Embedding`."""

import jax.numpy as jnp
from jax import lax

from keras_dp.backend.jax.clipping.jaxpr.rules.base import Use
from keras_dp.backend.jax.clipping.jaxpr.rules.outer import Layout, OneHot, Outer


def embedding(use: Use) -> Outer | None:
    """Take the look-up of whole rows apart; other forms of `gather` have the generic rule."""
    table, indices = use.equation.inputs
    params = use.equation.params
    numbers = params["dimension_numbers"]
    whole_rows = (
        numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and not numbers.operand_batching_dims
        and params["slice_sizes"] == (1, *use.weight.shape[1:])
    )
    if table is not use.weight or indices not in use.data or not whole_rows:
        return None
    rows = use.weight.shape[0]
    ids = use.data[indices][..., 0]
    ids = ids.reshape(ids.shape[0], 1, -1)
    if params["mode"] == lax.GatherScatterMode.CLIP:
        ids = jnp.clip(ids, 0, rows - 1)
    else:  # whatever is no index of a row takes no gradient
        ids = jnp.where((ids >= 0) & (ids < rows), ids, rows)
    offsets = [axis + 2 for axis in numbers.offset_dims]
    g = use.cotangents[0]
    g = jnp.moveaxis(g, offsets, range(g.ndim - len(offsets), g.ndim))
    right = g.reshape(g.shape[0], 1, ids.shape[2], -1)
    axes = tuple(range(1, len(use.weight.shape)))
    return Outer(OneHot(ids, rows), right, Layout(use.weight.shape, (), (0,), axes))
