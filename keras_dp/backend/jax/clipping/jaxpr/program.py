"""A jaxpr as flat equations over numbered values: calls spliced, loop invariants hoisted."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from keras_dp.backend.jax.clipping.jaxpr import compat, rewrites


@dataclass(frozen=True, eq=False)
class Value:
    """A value that an equation computes, or an input.

    Attributes:
        shape: Shape for one example.
        dtype: JAX dtype.
        depth: Number of loops it is computed in; 0 outside of all.
    """

    shape: tuple[int, ...]
    dtype: Any
    depth: int = 0


@dataclass(frozen=True, eq=False)
class Literal:
    """A value written into the program."""

    value: Any


Atom = Value | Literal
Env = dict[Value, Any]


@dataclass(frozen=True, eq=False)
class Equation:
    """One operation.

    Attributes:
        primitive: The JAX primitive, or `None` for a copy.
        params: Its parameters.
        inputs: What it reads, in the primitive's order.
        outputs: What it computes; `None` where the result is thrown away.
        jaxpr: The operation as a jaxpr of one equation.
        operands: What that jaxpr's inputs stand for.
        form: An equal, faster form of the operation, a function of its inputs.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[Atom, ...]
    outputs: tuple[Value, ...]
    jaxpr: Any = None
    operands: tuple[Atom, ...] = ()
    form: rewrites.Form | None = None

    @cached_property
    def reads(self) -> tuple[Value, ...]:
        """The distinct values it reads, in order of appearance."""
        return tuple(dict.fromkeys(atom for atom in self.inputs if isinstance(atom, Value)))

    @property
    def name(self) -> str:
        """The name of the operation."""
        return "copy" if self.primitive is None else str(self.primitive)

    @property
    def is_plain(self) -> bool:
        """Whether its derivative is JAX's own, hence linear: it holds no function of the user."""
        return not any(compat.holds_jaxpr(value) for value in self.params.values())

    def evaluate(self, *values: Any) -> list[Any]:
        """Compute the outputs from values for `reads`."""
        if self.primitive is None:
            return list(values)
        env = dict(zip(self.reads, values, strict=True))
        if self.form is not None:
            return self.form(*(read(env, atom) for atom in self.inputs))
        return compat.evaluate(self.jaxpr, [read(env, atom) for atom in self.operands])


@dataclass(frozen=True, eq=False)
class Loop(Equation):
    """A `scan`. Its body may read values of the program around it.

    Attributes:
        body: The program of one turn; its inputs are the carry, then the slices of `xs`.
        carry: Number of values that go from turn to turn.
        length: Number of turns.
        reverse: Whether the turns run from the last slice to the first.
        unroll: How many turns XLA sees as one.
        depth: Depth of the values that the body computes.
    """

    body: "Program" = field(default_factory=lambda: Program((), {}, (), ()))
    carry: int = 0
    length: int = 0
    reverse: bool = False
    unroll: Any = 1
    depth: int = 1

    @cached_property
    def free(self) -> tuple[Value, ...]:
        """Values from outside that the body reads."""
        return tuple(dict.fromkeys(_outer(self.body, self.depth)))

    @cached_property
    def reads(self) -> tuple[Value, ...]:
        """The distinct values it reads, those of the body included."""
        own = (atom for atom in self.inputs if isinstance(atom, Value))
        return tuple(dict.fromkeys((*own, *self.free)))

    def evaluate(self, *values: Any) -> list[Any]:
        """Compute the outputs from values for `reads`."""
        env = dict(zip(self.reads, values, strict=True))

        def turn(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
            inner = {**env, **dict(zip(self.body.inputs, [*carry, *xs], strict=True))}
            run(self.body.equations, inner)
            outputs = [read(inner, atom) for atom in self.body.outputs]
            return outputs[: self.carry], outputs[self.carry :]

        return self.scan(turn, [read(env, atom) for atom in self.inputs])

    def scan(self, turn: Callable[..., Any], operands: Sequence[Any], extra: Any = None) -> Any:
        """Run `turn(carry, xs)`, or `turn(carry, xs, extra)` when extra slices are given."""
        start, xs = list(operands[: self.carry]), list(operands[self.carry :])
        body = turn if extra is None else lambda carry, slices: turn(carry, *slices)
        carry, ys = jax.lax.scan(
            body,
            start,
            xs if extra is None else (xs, extra),
            length=self.length,
            reverse=self.reverse,
            unroll=self.unroll,
        )
        return [*carry, *ys] if extra is None else (list(carry), ys)


@dataclass(frozen=True, eq=False)
class Region(Equation):
    """Equations whose results between them are to be computed again rather than kept.

    Attributes:
        equations: The operations; they read and compute values of the program around.
    """

    equations: tuple[Equation, ...] = ()

    def evaluate(self, *values: Any) -> list[Any]:
        """Compute the outputs from values for `reads`."""
        env = dict(zip(self.reads, values, strict=True))
        run(self.equations, env)
        return [env[value] for value in self.outputs]


@dataclass(frozen=True, eq=False)
class Program:
    """Equations in order of evaluation.

    Attributes:
        inputs: The arguments.
        constants: Values that are known from the start.
        equations: The operations.
        outputs: The results.
    """

    inputs: tuple[Value, ...]
    constants: Env
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]


def read(env: Env, atom: Atom) -> Any:
    """Return what an atom stands for."""
    return atom.value if isinstance(atom, Literal) else env[atom]


def run(equations: Iterable[Equation], env: Env) -> None:
    """Evaluate the equations and enter what they compute."""
    for equation in equations:
        results = equation.evaluate(*(env[value] for value in equation.reads))
        env.update(zip(equation.outputs, results, strict=True))


def within(equation: Equation) -> Iterator[Equation]:
    """Yield an equation and, if it is a loop, all equations of its body."""
    yield equation
    if isinstance(equation, Loop):
        for inner in equation.body.equations:
            yield from within(inner)


def make_program(
    function: Callable[..., Any], *arguments: Any, regions: bool = False
) -> tuple[Program, Any]:
    """Trace a function and flatten it.

    Args:
        function: A pure function of trees of arrays.
        *arguments: Trees of arrays or shapes.
        regions: Whether what is to be rematerialised stays together, outside of loops.

    Returns:
        The program, whose inputs and outputs are the leaves in order, and the tree of shapes of the
        result.
    """
    jaxpr, consts, shapes = compat.trace(function, *arguments)
    inputs = tuple(_value(variable, 0) for variable in jaxpr.invars)
    builder = _Builder({}, [[]], regions)
    outputs = builder.splice(jaxpr, builder.hold(jaxpr.constvars, consts), list(inputs), 0)
    return Program(inputs, builder.constants, tuple(builder.levels[0]), tuple(outputs)), shapes


def rewrite(function: Callable[..., Any]) -> Callable[..., Any]:
    """Put equal, faster forms in the place of operations that this platform does slowly.

    For the inference of frozen backbones: on CPU, depthwise convolutions take a fraction of the
    time. Private training does this by itself. The result is the same up to rounding.

    Args:
        function: A pure function of trees of arrays, such as `model.stateless_call`. Put
            `jax.jit` around the result, not inside.

    Returns:
        A function of the same arguments with the same result.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from keras_dp import clipping
        >>> jax.jit(clipping.rewrite(lambda x: jnp.sin(x) * 2))(0.0).item()
        0.0
    """

    def rewritten(*arguments: Any) -> Any:
        program, shapes = make_program(function, *arguments)
        leaves = jax.tree.leaves(arguments)
        env = {**program.constants, **dict(zip(program.inputs, leaves, strict=True))}
        run(program.equations, env)
        outputs = [jnp.asarray(read(env, atom)) for atom in program.outputs]
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return rewritten


def _outer(body: "Program", depth: int) -> Iterator[Value]:
    """Yield the values of smaller depth that a loop's body reads."""
    for equation in body.equations:
        yield from (value for value in equation.reads if value.depth < depth)
    yield from (a for a in body.outputs if isinstance(a, Value) and a.depth < depth)


def _literal(variable: Any) -> Literal:
    return Literal(np.asarray(variable.val, variable.aval.dtype))


def _value(variable: Any, depth: int) -> Value:
    return Value(tuple(variable.aval.shape), variable.aval.dtype, depth)


@dataclass
class _Builder:
    """Collects equations, each at the depth of the deepest value it reads."""

    constants: Env
    levels: list[list[Equation]]
    regions: bool

    def hold(self, variables: Sequence[Any], values: Sequence[Any]) -> list[Atom]:
        """Enter constants."""
        held = [_value(variable, 0) for variable in variables]
        self.constants.update(zip(held, values, strict=True))
        return list(held)

    def splice(
        self, jaxpr: Any, consts: Sequence[Atom], arguments: Sequence[Atom], depth: int
    ) -> list[Atom]:
        """Add a jaxpr's equations; `consts` and `arguments` stand for its inputs.

        Two calls of one function share a body and its variables, so each splice numbers afresh.
        """
        names: dict[Any, Atom] = dict(
            zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True)
        )

        def atom(variable: Any) -> Atom:
            return _literal(variable) if compat.is_literal(variable) else names[variable]

        for equation in jaxpr.eqns:
            inputs = [atom(variable) for variable in equation.invars]
            outputs = self._add(jaxpr, equation, inputs, depth)
            names.update(zip(equation.outvars, outputs, strict=True))
        return [atom(variable) for variable in jaxpr.outvars]

    def _add(self, jaxpr: Any, equation: Any, inputs: list[Atom], depth: int) -> Sequence[Atom]:
        if equation.primitive in compat.CALLS:
            inner = equation.params[compat.CALLS[equation.primitive]]
            body, consts = compat.open_jaxpr(inner)
            arguments = (body, self.hold(body.constvars, consts), inputs, depth)
            if equation.primitive is compat.primitives.remat_p and self.regions and depth == 0:
                return self._region(equation, *arguments)
            return self.splice(*arguments)
        if equation.primitive is compat.primitives.scan_p:
            return self._loop(equation, inputs)
        found = max((a.depth for a in inputs if isinstance(a, Value)), default=0)
        kept = [v for v in equation.outvars if not compat.is_dropped(v)]
        values = {variable: _value(variable, found) for variable in kept}
        alone, variables = compat.single(jaxpr, equation)
        names = {
            variable: atom
            for variable, atom in zip(equation.invars, inputs, strict=True)
            if not compat.is_literal(variable)
        }
        self.levels[found].append(
            Equation(
                equation.primitive,
                equation.params,
                tuple(inputs),
                tuple(values.values()),
                alone,
                tuple(names[variable] for variable in variables),
                rewrites.faster_form(
                    equation.primitive,
                    equation.params,
                    [variable.aval for variable in equation.invars],
                ),
            )
        )
        return [values.get(v, _UNUSED) for v in equation.outvars]

    def _region(self, equation: Any, *arguments: Any) -> Sequence[Atom]:
        """Add a region; regions within it are no more than their equations."""
        around, self.levels, self.regions = self.levels, [[]], False
        results = self.splice(*arguments)
        (equations,), self.levels, self.regions = self.levels, around, True
        inside = {value for each in equations for value in each.outputs}
        outputs = tuple(dict.fromkeys(atom for atom in results if atom in inside))
        reads = dict.fromkeys(v for e in equations for v in e.reads if v not in inside)
        self.levels[0].append(
            Region(
                equation.primitive,
                equation.params,
                tuple(reads),
                tuple(v for v in outputs if isinstance(v, Value)),
                equations=tuple(equations),
            )
        )
        return results

    def _loop(self, equation: Any, inputs: list[Atom]) -> Sequence[Atom]:
        """Add a scan; what its body computes from constants alone moves out of it."""
        consts, carry = compat.scan_arity(equation)
        body, held = compat.open_jaxpr(equation.params["jaxpr"])
        depth = len(self.levels)
        self.levels.append([])
        arguments = tuple(_value(variable, depth) for variable in body.invars[consts:])
        outputs = self.splice(
            body,
            self.hold(body.constvars, held),
            [*inputs[:consts], *arguments],
            depth,
        )
        program = Program(arguments, {}, tuple(self.levels.pop()), tuple(outputs))
        operands = tuple(inputs[consts:])
        free = _outer(program, depth)
        around = max((a.depth for a in (*operands, *free) if isinstance(a, Value)), default=0)
        results = tuple(_value(variable, around) for variable in equation.outvars)
        self.levels[around].append(
            Loop(
                equation.primitive,
                equation.params,
                operands,
                results,
                body=program,
                carry=carry,
                length=equation.params["length"],
                reverse=equation.params["reverse"],
                unroll=equation.params["unroll"],
                depth=depth,
            )
        )
        return results


_UNUSED = Literal(None)
