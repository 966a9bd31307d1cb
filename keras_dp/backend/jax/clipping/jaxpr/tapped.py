"""One forward and one backward pass that reach every site, but no weight.

A zero tap is added to what each site computes. The derivative with respect to the tap is the
gradient that arrives there; with what the site read, it is all that clipping needs. Weights are
constants here, so no gradient of a weight is computed and activations flow as in ordinary training.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from keras_dp.backend.jax.clipping.jaxpr.again import rematerialised
from keras_dp.backend.jax.clipping.jaxpr.compat import primitives
from keras_dp.backend.jax.clipping.jaxpr.program import (
    Env,
    Equation,
    Loop,
    Region,
    Value,
    read,
    within,
)
from keras_dp.backend.jax.clipping.jaxpr.sites import Analysis, Site


@dataclass(frozen=True)
class Flow:
    """What flowed through the sites, with leading axes for examples and for turns of loops.

    Attributes:
        outputs: The program's outputs, each with a leading batch axis.
        data: For each site, what it read that depends on the example.
        cotangents: For each site, the gradient of the loss with respect to its taps.
    """

    outputs: list[Any]
    data: dict[Site, list[Any]]
    cotangents: dict[Site, list[Any]]


def flow(
    analysis: Analysis,
    known: Env,
    batch: Sequence[Any],
    size: int,
    arrived: Sequence[Any] | None = None,
) -> Flow:
    """Run the data part of a program forward and backward for a batch.

    Args:
        analysis: The program.
        known: Values of weights, constants and all that is computed from them.
        batch: Values of the data inputs, each with a leading batch axis.
        size: Number of examples.
        arrived: The gradients that arrived at the results; `None` stands for a loss, and 1.
    """
    runner = _Runner(analysis)

    def one(taps: list[Any], example: Sequence[Any]) -> tuple[Any, Any]:
        env = {**known, **dict(zip(analysis.data, example, strict=True))}
        seen = runner.run(analysis.from_data, env, dict(zip(runner.taps, taps, strict=True)))
        outputs = [read(env, atom) for atom in analysis.outputs]
        losses = [outputs[position] for position in analysis.losses]
        return losses, (outputs, [seen[site] for site in analysis.sites.values()])

    def all_losses(taps: list[Any]) -> tuple[Any, Any]:
        return jax.vmap(one)(taps, list(batch))

    zeros = [jnp.zeros((size, *loops, *tap.shape), tap.dtype) for tap, loops in runner.taps.items()]
    losses, pull, (outputs, seen) = jax.vjp(all_losses, zeros, has_aux=True)
    start = [jnp.ones_like(loss) for loss in losses] if arrived is None else list(arrived)
    cotangents = dict(zip(runner.taps, pull(start)[0], strict=True))
    sites = analysis.sites.values()
    return Flow(
        outputs,
        dict(zip(sites, seen, strict=True)),
        {site: [cotangents[runner.place(value)] for value in site.taps] for site in sites},
    )


@dataclass(frozen=True)
class _Runner:
    """Evaluates the data part of a program with taps, in and out of loops."""

    analysis: Analysis

    @cached_property
    def taps(self) -> dict[Value, tuple[int, ...]]:
        """The values that get a tap, with the lengths of the loops around."""
        return {
            self.place(value): site.loops
            for site in self.analysis.sites.values()
            for value in site.taps
        }

    def place(self, value: Value) -> Value:
        """Return where the gradient of a value can be read.

        What is only added to something gets the gradient of the sum, so that a product and its bias
        share one tap.
        """
        while value in self._added:
            value = self._added[value]
        return value

    def run(self, equations: Iterable[Equation], env: Env, taps: Env) -> dict[Site, list[Any]]:
        """Evaluate equations; return what their sites read."""
        seen: dict[Site, list[Any]] = {}
        for equation in equations:
            site = self.analysis.sites.get(equation)
            if site is None and isinstance(equation, Loop) and any(self._within(equation)):
                seen.update(self._run_loop(equation, env, taps))
                continue
            results = self._evaluate(equation, env)
            if site is not None:
                seen[site] = [env[value] for value in site.data]
            for value, result in zip(equation.outputs, results, strict=True):
                env[value] = _tapped(result, taps[value]) if value in taps else result
        return seen

    def _evaluate(self, equation: Equation, env: Env) -> list[Any]:
        if not isinstance(equation, Region):
            return equation.evaluate(*(env[value] for value in equation.reads))
        data = [value for value in equation.reads if value in self._data]

        def region(values: list[Any]) -> list[Any]:
            here = {**env, **dict(zip(data, values, strict=True))}
            return equation.evaluate(*(here[value] for value in equation.reads))

        return rematerialised(region)([env[value] for value in data])

    @cached_property
    def _data(self) -> set[Value]:
        """The values outside of loops that depend on the example."""
        computed = (value for each in self.analysis.from_data for value in each.outputs)
        return {*self.analysis.data, *computed}

    def _run_loop(self, loop: Loop, env: Env, taps: Env) -> dict[Site, list[Any]]:
        """Evaluate a loop with sites: its taps are slices for each turn, what they saw comes out.

        What is a slice of an operand anyway is not collected again.
        """
        sites = list(self._within(loop))
        inner = list(dict.fromkeys(self.place(v) for site in sites for v in site.taps))
        slices = dict(zip(loop.body.inputs[loop.carry :], loop.inputs[loop.carry :], strict=True))
        kept = [[value for value in site.data if value not in slices] for site in sites]

        def turn(carry: list[Any], xs: list[Any], cuts: list[Any]) -> tuple[Any, Any]:
            scope = {**env, **dict(zip(loop.body.inputs, [*carry, *xs], strict=True))}
            seen = self.run(loop.body.equations, scope, dict(zip(inner, cuts, strict=True)))
            outputs = [read(scope, atom) for atom in loop.body.outputs]
            read_here = [dict(zip(site.data, seen[site], strict=True)) for site in sites]
            collected = [[r[v] for v in k] for r, k in zip(read_here, kept, strict=True)]
            return outputs[: loop.carry], (outputs[loop.carry :], collected)

        operands = [read(env, atom) for atom in loop.inputs]
        saving = jax.checkpoint(turn, prevent_cse=False, policy=_worth_keeping)
        carry, (ys, collected) = loop.scan(saving, operands, [taps[tap] for tap in inner])
        env.update(zip(loop.outputs, [*carry, *ys], strict=True))
        seen = {}
        for site, values, arrays in zip(sites, kept, collected, strict=True):
            found = dict(zip(values, arrays, strict=True))
            seen[site] = [
                found[value] if value in found else read(env, slices[value]) for value in site.data
            ]
        return seen

    def _within(self, loop: Loop) -> Iterator[Site]:
        sites = self.analysis.sites
        return (sites[equation] for equation in within(loop) if equation in sites)

    @cached_property
    def _added(self) -> dict[Value, Value]:
        """For each value that is read once, by a sum of the same shape, that sum."""
        readers: Counter[Value] = Counter(a for a in self.analysis.outputs if isinstance(a, Value))
        sums: dict[Value, Value] = {}
        for equation in (e for each in self.analysis.from_data for e in within(each)):
            readers.update(equation.reads)
            if isinstance(equation, Loop):
                readers.update(a for a in equation.body.outputs if isinstance(a, Value))
            if equation.primitive is primitives.add_p and len(equation.reads) == 2:
                (total,) = equation.outputs
                sums.update({v: total for v in equation.reads if v.shape == total.shape})
        return {
            value: total
            for value, total in sums.items()
            if readers[value] == 1 and value.depth == total.depth and value.dtype == total.dtype
        }


_CHEAP = {
    primitives.add_p,
    primitives.broadcast_in_dim_p,
    primitives.convert_element_type_p,
    primitives.mul_p,
    primitives.neg_p,
    primitives.reshape_p,
    primitives.select_n_p,
    primitives.slice_p,
    primitives.squeeze_p,
    primitives.sub_p,
    primitives.transpose_p,
}


def _worth_keeping(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether a result is kept for every turn of a loop until the backward pass.

    What a few multiplications make of other results is computed again: less memory, less time.
    """
    return primitive not in _CHEAP


@jax.custom_jvp
def _tapped(value: Any, tap: Any) -> Any:
    """Return the value; its derivative is that of `value + tap`.

    The choice never falls on the tap and XLA drops it, but it tells `vmap` that the result has a
    batch axis, as its derivative has.
    """
    return jnp.where(False, tap, value)


@_tapped.defjvp
def _tapped_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    return _tapped(*primals), tangents[0] + tangents[1]
