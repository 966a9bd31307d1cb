"""One example's loss, traced: what becomes of non-trainable state, and what clipping costs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from keras_dp.backend.jax.clipping.jaxpr.assemble import Traced
from keras_dp.backend.jax.clipping.jaxpr.program import Program, Value, make_program, read, run
from keras_dp.backend.jax.clipping.jaxpr.reach import reached
from keras_dp.backend.jax.clipping.jaxpr.report import report
from keras_dp.backend.jax.clipping.jaxpr.sites import analyse
from keras_dp.backend.jax.example import example_loss
from keras_dp.backend.trace import ExampleTrace
from keras_dp.types import Tree


def trace_example(model: Any, rows: Tree) -> ExampleTrace:
    """Trace the loss of one example and follow the data into the non-trainable variables.

    An operation with an input that depends on the example is taken to make all its outputs depend
    on it, so nothing is missed; a variable that is passed through or computed from weights and
    other state alone is free.

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

    def loss_and_state(params: list[Any], state: list[Any], example: Tree) -> list[Any]:
        loss_fn = example_loss(model, state, _zeros(metrics), own_seeds=False)
        loss, outputs = loss_fn(params, example)
        return [loss, *outputs["non_trainable"]]

    program, shapes = make_program(loss_and_state, params, non_trainable, example)
    state = program.inputs[len(params) : len(params) + len(non_trainable)]
    data = program.inputs[len(params) + len(non_trainable) :]
    tainted = reached(program, data)
    dependent = tuple(i for i, out in enumerate(program.outputs[1:]) if out in tainted)
    names = [variable.path for variable in model.trainable_variables]
    return ExampleTrace(
        dependent,
        _advance(program, len(params), state, tainted),
        lambda: report(_loss_alone(program, len(params), state, shapes), names),
    )


def _advance(
    program: Program, weights: int, state: tuple[Value, ...], tainted: set[Value]
) -> Callable[[list[Any], list[Any]], list[Any]]:
    """Return the function that computes new state by the equations no data flow into."""
    free = [e for e in program.equations if not any(value in tainted for value in e.reads)]

    def advance(params: list[Any], non_trainable: list[Any]) -> list[Any]:
        env = {**program.constants, **dict(zip(program.inputs[:weights], params, strict=True))}
        env.update(zip(state, non_trainable, strict=True))
        run(free, env)
        return [
            old if out in tainted else read(env, out)
            for out, old in zip(program.outputs[1:], non_trainable, strict=True)
        ]

    return advance


def _loss_alone(program: Program, weights: int, state: tuple[Value, ...], shapes: Any) -> Traced:
    """Return the loss with the non-trainable state as constants."""
    inputs = tuple(value for value in program.inputs if value not in set(state))
    constants = {**program.constants, **{v: jnp.zeros(v.shape, v.dtype) for v in state}}
    alone = Program(inputs, constants, program.equations, program.outputs[:1])
    return Traced(analyse(alone, weights), constants, shapes)


def _shape(array: Any) -> Any:
    return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))


def _zeros(tree: Tree) -> Tree:
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree)
