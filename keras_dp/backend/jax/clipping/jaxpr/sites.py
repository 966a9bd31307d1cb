"""Where weights meet data: every place through which a weight can influence the loss.

Values are coloured. WEIGHT: depends on trainable weights and constants only. DATA: depends on the
example. A *site* is an equation that computes a DATA value from a WEIGHT value. Whatever an
example's gradient holds came through a site, so a norm over all sites misses nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp

from keras_dp.backend.jax.clipping.jaxpr.program import (
    Atom,
    Equation,
    Literal,
    Loop,
    Program,
    Region,
    Value,
    within,
)


@dataclass(frozen=True, eq=False)
class Site:
    """One place where weights meet data.

    Attributes:
        equation: The operation.
        weights: The values it reads that come from weights alone and have a gradient.
        data: The values it reads that depend on the example.
        loops: Lengths of the loops around it, the outermost first.
    """

    equation: Equation
    weights: tuple[Value, ...]
    data: tuple[Value, ...]
    loops: tuple[int, ...]

    @property
    def taps(self) -> tuple[Value, ...]:
        """The outputs that can pass on a gradient."""
        return tuple(value for value in self.equation.outputs if differentiable(value))


@dataclass(frozen=True, eq=False)
class Analysis:
    """A program divided by colour.

    Attributes:
        fixed: Equations that depend on neither weights nor data.
        from_weights: Equations that depend on weights, not on data.
        from_data: All others, copies added where a weight enters a loop or is a result itself.
        sites: The sites among `from_data` that the loss depends on, those in loops included, by
            equation.
        weights: The program's inputs that are weights.
        data: Its other inputs.
        outputs: Its results.
        losses: Positions of the results that gradients start from.
    """

    fixed: tuple[Equation, ...]
    from_weights: tuple[Equation, ...]
    from_data: tuple[Equation, ...]
    sites: dict[Equation, Site]
    weights: tuple[Value, ...]
    data: tuple[Value, ...]
    outputs: tuple[Atom, ...]
    losses: tuple[int, ...]


def analyse(program: Program, weights: int, losses: Sequence[int] = (0,)) -> Analysis:
    """Colour a program and find its sites.

    Args:
        program: The loss of one example, or a part of it.
        weights: How many of its inputs are weights; they come first.
        losses: Positions, among its outputs, of the results that gradients start from.
    """
    colours = _Colours(set(program.inputs[:weights]), set(program.inputs[weights:]), {})
    fixed: list[Equation] = []
    from_weights: list[Equation] = []
    from_data: list[Equation] = []
    for equation in _with_regions_of_their_own(program, weights):
        if colours.of_data(equation.reads):
            from_data.extend(colours.visit(equation, ()))
        elif colours.of_weights(equation.reads):
            colours.weights.update(equation.outputs)
            from_weights.append(equation)
        else:
            fixed.append(equation)
    outputs = list(program.outputs)
    escaping = [position for position in losses if outputs[position] in colours.weights]
    from_data.extend(colours.copy(outputs, escaping, (), 0))
    needed = set(_needed_for({outputs[position] for position in losses}, from_data))
    return Analysis(
        tuple(fixed),
        tuple(from_weights),
        tuple(from_data),
        {equation: site for equation, site in colours.sites.items() if equation in needed},
        program.inputs[:weights],
        program.inputs[weights:],
        tuple(outputs),
        tuple(losses),
    )


def _with_regions_of_their_own(program: Program, weights: int) -> list[Equation]:
    """Return the equations, with the regions left whole that have their weights for themselves.

    Uses of one weight belong together, and what reads no data is computed once for all examples.
    """
    origins = {value: {value} for value in program.inputs[:weights]}
    data = set(program.inputs[weights:])
    users: dict[Equation, set[Value]] = {}
    for equation in program.equations:
        found = set().union(*(origins.get(value, set()) for value in equation.reads))
        if any(value in data for value in equation.reads):
            users[equation] = found
            data.update(equation.outputs)
        else:
            origins.update(dict.fromkeys(equation.outputs, found))
    times = Counter(weight for found in users.values() for weight in found)
    equations: list[Equation] = []
    for equation in program.equations:
        alone = equation in users and all(times[weight] == 1 for weight in users[equation])
        if isinstance(equation, Region) and not alone:
            equations.extend(equation.equations)
        else:
            equations.append(equation)
    return equations


def _needed_for(wanted: set[Atom], equations: Sequence[Equation]) -> Iterator[Equation]:
    """Yield the equations that the atoms depend on, and all within loops that they depend on."""
    for equation in reversed(equations):
        if any(value in wanted for value in equation.outputs):
            wanted.update(equation.reads)
            yield from within(equation)


@dataclass
class _Colours:
    """The colours found so far; a value in neither set is constant."""

    weights: set[Value]
    data: set[Value]
    sites: dict[Equation, Site]

    def of_data(self, values: Iterable[Value]) -> bool:
        return any(value in self.data for value in values)

    def of_weights(self, values: Iterable[Value]) -> bool:
        return any(value in self.weights for value in values)

    def visit(self, equation: Equation, loops: tuple[int, ...]) -> list[Equation]:
        """Colour an equation that reads data; return what is to be evaluated in its place."""
        if isinstance(equation, Loop) and self.of_weights(equation.reads):
            slices = equation.inputs[equation.carry :]
            if not any(atom in self.weights for atom in slices):
                return self._visit_loop(equation, loops)
        self._enter(equation, loops)
        return [equation]

    def copy(
        self, atoms: list[Atom], positions: Sequence[int], loops: tuple[int, ...], depth: int
    ) -> list[Equation]:
        """Put copies, which are data, in the place of weights among the atoms."""
        copies = []
        for position in positions:
            source = atoms[position]
            if isinstance(source, Literal):
                continue
            target = replace(source, depth=depth)
            copies.append(Equation(None, {}, (source,), (target,)))
            self._enter(copies[-1], loops)
            atoms[position] = target
        return copies

    def _enter(self, equation: Equation, loops: tuple[int, ...]) -> None:
        self.data.update(equation.outputs)
        weights = tuple(v for v in equation.reads if v in self.weights and differentiable(v))
        if weights and any(differentiable(v) for v in equation.outputs):
            data = tuple(v for v in equation.reads if v in self.data)
            self.sites[equation] = Site(equation, weights, data, loops)

    def _visit_loop(self, loop: Loop, loops: tuple[int, ...]) -> list[Equation]:
        """Look for sites in a loop whose weights come from outside or with the carry.

        Inside, the carry and all that is computed counts as data: a weight that starts the carry
        enters by a copy, and a weight that a turn returns leaves by one.
        """
        operands = list(loop.inputs)
        start = [i for i in range(loop.carry) if operands[i] in self.weights]
        before = self.copy(operands, start, loops, loop.depth - 1)
        inside = (*loops, loop.length)
        self.data.update(loop.body.inputs)
        equations: list[Equation] = []
        for equation in loop.body.equations:
            equations.extend(self.visit(equation, inside))
        results = list(loop.body.outputs)
        escaping = [i for i, atom in enumerate(results) if atom in self.weights]
        equations.extend(self.copy(results, escaping, inside, loop.depth))
        body = replace(loop.body, equations=tuple(equations), outputs=tuple(results))
        self.data.update(loop.outputs)
        return [*before, replace(loop, inputs=tuple(operands), body=body)]


def differentiable(value: Value) -> bool:
    """Whether a value can have a gradient."""
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))
