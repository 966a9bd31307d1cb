"""Non-trainable state: what it becomes, and whether private data would flow into it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from keras_dp.backend.jax.example import example_loss
from keras_dp.types import Tree


@dataclass(frozen=True)
class StateUpdates:
    """How one update changes a model's non-trainable variables.

    Attributes:
        data_dependent: Positions of the variables that would take up private data.
        advance: `advance(params, non_trainable)` gives the new values of all variables; it is
            right for those that take up no data, such as the seeds of dropout layers.
    """

    data_dependent: tuple[int, ...]
    advance: Callable[[list[Any], list[Any]], list[Any]]


def trace_state_updates(model: Any, rows: Tree) -> StateUpdates:
    """Trace the loss of one example and follow the data into the non-trainable variables.

    Any equation that has an input which depends on the example is taken to make all its outputs
    depend on it, so nothing is missed; a variable that is passed through or computed from weights
    and other state alone is free.

    Args:
        model: A `DPModel` that is built and compiled.
        rows: `(x, y, sample_weight)` with a few examples, of which only the shapes are used.
    """
    params, non_trainable, metrics = (
        [_shape(variable.value) for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.metrics_variables,
        )
    )
    x, y, weight = jax.tree.map(lambda a: _shape(a[0]), rows)
    position = jax.ShapeDtypeStruct((), jnp.int32)
    example = {"x": x, "y": y, "sample_weight": weight, "position": position}

    def new_state(params: list[Any], non_trainable: list[Any], example: Tree) -> list[Any]:
        loss_fn = example_loss(model, non_trainable, _zeros(metrics), own_seeds=False)
        return list(loss_fn(params, example)[1]["non_trainable"])

    traced = jax.make_jaxpr(new_state)(params, non_trainable, example)
    first = len(params) + len(non_trainable)
    tainted = _reached(traced.jaxpr, traced.jaxpr.invars[first:])
    dependent = tuple(i for i, out in enumerate(traced.jaxpr.outvars) if id(out) in tainted)

    def advance(params: list[Any], non_trainable: list[Any]) -> list[Any]:
        inputs = [*params, *non_trainable, *jax.tree.leaves(_zeros(example))]
        return list(jaxpr_as_fun(traced)(*inputs))

    return StateUpdates(dependent, advance)


def _reached(jaxpr: Any, sources: Iterable[Any]) -> set[int]:
    """Return the ids of all variables that depend on the sources."""
    tainted = {id(variable) for variable in sources}
    for equation in jaxpr.eqns:
        if any(id(variable) in tainted for variable in equation.invars):
            tainted.update(id(variable) for variable in equation.outvars)
    return tainted


def _shape(array: Any) -> Any:
    return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))


def _zeros(tree: Tree) -> Tree:
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree)
