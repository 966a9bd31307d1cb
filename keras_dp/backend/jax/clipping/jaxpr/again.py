"""Computing again rather than keeping: what XLA must not undo by finding both the same."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def again(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`, computed apart from all that went before.

    On CPU XLA takes barriers out before it looks for common expressions, so a condition that it
    cannot see through, and that always holds, keeps the computation apart.

    Args:
        function: A function of trees of arrays.
        *arguments: The trees. What is computed from them waits for all of them.
    """
    if jax.default_backend() != "cpu":
        return function(*lax.optimization_barrier(arguments))
    shapes = jax.eval_shape(function, *arguments)
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    always = lax.optimization_barrier(jnp.array(True))
    return lax.cond(always, function, lambda *_: nothing, *arguments)


def rematerialised(function: Callable[[list[Any]], list[Any]]) -> Callable[..., list[Any]]:
    """Make the same function, whose backward pass computes again what happens within.

    Args:
        function: A function of a list of arrays with a list of arrays as result. What else it
            reads is constant.
    """

    def forward(values: list[Any]) -> tuple[list[Any], list[Any]]:
        return function(values), values

    def backward(values: list[Any], cotangents: list[Any]) -> tuple[list[Any]]:
        smooth = [jnp.issubdtype(value.dtype, jnp.inexact) for value in values]

        def pull(values: list[Any], cotangents: list[Any]) -> list[Any]:
            found = jax.vjp(function, values)[1](cotangents)[0]
            return [g for g, is_smooth in zip(found, smooth, strict=True) if is_smooth]

        found = iter(again(pull, values, cotangents))
        return ([next(found) if is_smooth else None for is_smooth in smooth],)

    apart = jax.custom_vjp(function)
    apart.defvjp(forward, backward)
    return apart
