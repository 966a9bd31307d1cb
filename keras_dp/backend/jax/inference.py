"""A model run forward only, over many examples, as fast as the platform can."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras
from jax.sharding import NamedSharding, PartitionSpec

from keras_dp.backend.jax.clipping.jaxpr.program import Program, Value, make_program, rewrite
from keras_dp.backend.jax.memory import MIB, microbatch_memory
from keras_dp.backend.jax.mesh import placement
from keras_dp.types import Tree

CPU_INFERENCE = 16 * MIB
"""Bytes that one operation reads and writes up to which CPUs run forward fastest: beyond it they
leave the caches."""

LIVE_AT_ONCE = 4
"""Operations whose results an accelerator is taken to hold at a time."""

MOST_EXAMPLES = 1024


def compile_inference(
    function: Callable[[Tree], Any], variables: Sequence[Any]
) -> Callable[[Tree], Any]:
    """Return the compiled function, with the engine's faster forms, on all devices of the mesh.

    Args:
        function: Calls Keras models on a batch; what it changes in their variables is thrown away.
        variables: The Keras variables that it reads, with the values that they have now.

    Returns:
        The function of a batch, spread by `Placement.take`. It returns before the device has run
        it; its result is whole on every device.
    """
    mesh = placement().mesh
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    compiled = jax.jit(rewrite(_pure(function, variables)), out_shardings=whole)
    values = [variable.value for variable in variables]
    if mesh is not None:  # a backbone that was made before the distribution was set
        values = [
            v if v.sharding.device_set == {*mesh.devices.flat} else jax.device_put(v, whole)
            for v in values
        ]
    return lambda rows: compiled(values, rows)


def inference_size(function: Callable[[Tree], Any], variables: Sequence[Any], rows: Tree) -> int:
    """Return how many examples a device runs at a time: a power of two, from 1 to 1,024.

    Inference keeps no activations for a backward pass, so on CPU the largest operation decides.

    Args:
        function: As for `compile_inference`.
        variables: The Keras variables that it reads.
        rows: Some rows, of which shapes and dtypes are used.
    """
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), rows)
    values = [variable.value for variable in variables]
    program, _ = make_program(_pure(function, variables), values, one)
    largest = max(1, _largest_operation(program, len(values)))
    on_cpu = jax.default_backend() == "cpu"
    memory = CPU_INFERENCE if on_cpu else microbatch_memory().preferred // LIVE_AT_ONCE
    fitting = min(MOST_EXAMPLES, max(1, memory // largest))
    return int(1 << (fitting.bit_length() - 1))


def _pure(function: Callable[[Tree], Any], variables: Sequence[Any]) -> Callable[..., Any]:
    def pure(values: list[Any], rows: Tree) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(rows)

    return pure


def _largest_operation(program: Program, weights: int) -> int:
    """Return the bytes that an operation reads and writes at most, weights left out."""
    known = {*program.inputs[:weights], *program.constants}
    return max(
        (
            sum(_bytes(value) for value in {*equation.reads, *equation.outputs} - known)
            for equation in program.equations
        ),
        default=0,
    )


def _bytes(value: Value) -> int:
    return math.prod(value.shape) * int(getattr(value.dtype, "itemsize", 4))
