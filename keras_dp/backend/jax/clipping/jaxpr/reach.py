"""Where data flow to: all values of a program that depend on some of its inputs."""

from collections.abc import Iterable

from keras_dp.backend.jax.clipping.jaxpr.program import Equation, Loop, Program, Value


def reached(program: Program, sources: Iterable[Value]) -> set[Value]:
    """Return all values that depend on the sources; within a loop, over all its turns."""
    found = set(sources)
    _reach(program.equations, found)
    return found


def _reach(equations: Iterable[Equation], found: set[Value]) -> None:
    for equation in equations:
        if isinstance(equation, Loop):
            _reach_loop(equation, found)
        elif any(value in found for value in equation.reads):
            found.update(equation.outputs)


def _reach_loop(loop: Loop, found: set[Value]) -> None:
    marked = [atom in found for atom in loop.inputs]
    while True:
        found.update(v for v, mark in zip(loop.body.inputs, marked, strict=True) if mark)
        _reach(loop.body.equations, found)
        after = [atom in found for atom in loop.body.outputs]
        carried = [a or b for a, b in zip(marked, after[: loop.carry], strict=False)]
        if carried == marked[: loop.carry]:
            break
        marked[: loop.carry] = carried
    found.update(v for v, mark in zip(loop.outputs, after, strict=True) if mark)
