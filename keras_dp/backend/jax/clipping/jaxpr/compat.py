"""The only file that knows JAX releases: how a jaxpr is made, taken apart and evaluated.

Everything else in this package works on `Program`. Tested from JAX 0.10.2 to 0.12.0.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import DropVar, Literal
from jax.extend.core import primitives as primitives

NEWEST_TESTED = (0, 12)
"""Newest JAX minor release on which the engine was compared with the reference."""

split_p = lax.split_p  # not among `primitives`

CALLS = {
    primitives.jit_p: "jaxpr",
    primitives.closed_call_p: "call_jaxpr",
    primitives.remat_p: "jaxpr",
}
"""Primitives that do nothing but call a jaxpr, with the parameter that holds it.

`custom_jvp_call` and `custom_vjp_call` are not among them: spliced, they would lose their own
derivative.
"""


@functools.cache
def is_tested() -> bool:
    """Whether this JAX is one the engine was tested on; says so once if it is not."""
    tested = jax.__version_info__[:2] <= NEWEST_TESTED
    if not tested:
        warnings.warn(
            f"JAX {jax.__version__} is newer than the newest release that keras_dp's fast "
            f"clipping was tested on, {'.'.join(map(str, NEWEST_TESTED))}. The slow sure method "
            '"vmap" is used instead. Upgrade keras_dp, or install an older JAX.',
            stacklevel=2,
        )
    return tested


def trace(function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[Any], Any]:
    """Trace a function to a jaxpr.

    Args:
        function: A pure function of arrays.
        *arguments: Trees of arrays or `jax.ShapeDtypeStruct`.

    Returns:
        The open jaxpr, the values of its constants, and the tree of shapes of its result.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    jaxpr, consts = open_jaxpr(closed)
    return jaxpr, consts, shapes


def open_jaxpr(jaxpr: Any) -> tuple[Any, list[Any]]:
    """Return a jaxpr without its constants, and these. The two types are one since JAX 0.11."""
    return getattr(jaxpr, "jaxpr", jaxpr), list(getattr(jaxpr, "consts", ()))


def holds_jaxpr(parameter: Any) -> bool:
    """Whether a parameter of an equation is a jaxpr, a function, or a sequence with one."""
    if isinstance(parameter, (tuple, list)):
        return any(holds_jaxpr(item) for item in parameter)
    return callable(parameter) or hasattr(open_jaxpr(parameter)[0], "eqns")


def is_literal(atom: Any) -> bool:
    """Whether an input of an equation is a value written into the jaxpr."""
    return isinstance(atom, Literal)


def is_dropped(variable: Any) -> bool:
    """Whether an output of an equation is thrown away."""
    return isinstance(variable, DropVar)


def scan_arity(equation: Any) -> tuple[int, int]:
    """Return how many inputs of a scan are constants and how many are the carry."""
    params = equation.params
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    # JAX 0.11 and newer. This shim is the only branch once the declared minimum is 0.11.
    positions = params["ft_in"].update(list(range(len(equation.invars))))
    consts, carry, _ = (list(part) for part in positions.unpack())
    return len(consts), len(carry)


def single(jaxpr: Any, equation: Any) -> tuple[Any, list[Any]]:
    """Make a jaxpr of one equation, to be evaluated alone, and list its input variables.

    JAX evaluates it, which keeps custom derivatives and needs no knowledge of how a primitive is
    bound. Literals stay inside.

    Args:
        jaxpr: The jaxpr that the equation is part of.
        equation: The equation.
    """
    inputs = list(dict.fromkeys(atom for atom in equation.invars if not is_literal(atom)))
    outputs = [variable for variable in equation.outvars if not is_dropped(variable)]
    alone = jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=[equation])
    return alone, inputs


def evaluate(jaxpr: Any, values: Sequence[Any]) -> list[Any]:
    """Evaluate a jaxpr that has no constants."""
    return list(jax.core.eval_jaxpr(jaxpr, (), *values))
