"""Tracing: calls are spliced, loop invariants move out, nothing changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from keras_dp.backend.jax.clipping.jaxpr.compat import primitives
from keras_dp.backend.jax.clipping.jaxpr.program import Loop, make_program, rewrite
from keras_dp.backend.jax.clipping.jaxpr.reach import reached


@jax.jit
def shared(x, y):
    return jnp.sin(x) * y


def two_calls(w, x):
    return shared(shared(x, w), w) + shared(w, w)


def nested_loops(w, x):
    def outer(h, a):
        def inner(k, b):
            return jnp.tanh(k * jnp.exp(w) + b * a), k

        k, ks = lax.scan(inner, h, jnp.stack([a, 2 * a]))
        return k + jnp.sin(w) * w, ks.sum()

    return lax.scan(outer, x, jnp.arange(3.0), reverse=True, unroll=2)


def remat_and_custom(w, x):
    hidden = jax.checkpoint(lambda a: jnp.sin(a * w))(x)
    return jax.nn.relu(hidden) + lax.cond(x > 0, lambda a: a * w, lambda a: a, hidden)


@pytest.mark.parametrize("function", [two_calls, nested_loops, remat_and_custom])
def test_a_program_computes_what_the_function_does(function):
    arguments = jnp.float32(0.3), jnp.float32(-0.7)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        rewrite(function)(*arguments),
        function(*arguments),
    )


def test_calls_are_spliced_and_every_call_has_values_of_its_own():
    program, _ = make_program(two_calls, 1.0, 2.0)
    assert {equation.name for equation in program.equations} == {"sin", "mul", "add"}
    outputs = [value for equation in program.equations for value in equation.outputs]
    assert len(outputs) == len(set(outputs)) == 7


def test_what_a_loop_computes_from_constants_moves_out_of_it():
    program, _ = make_program(nested_loops, 1.0, 2.0)
    names = [equation.name for equation in program.equations]
    assert {"exp", "sin"} <= set(names)
    loop = next(equation for equation in program.equations if isinstance(equation, Loop))
    inner = next(equation for equation in loop.body.equations if isinstance(equation, Loop))
    assert "exp" not in {equation.name for equation in inner.body.equations}


def test_custom_derivatives_stay_whole():
    program, _ = make_program(lambda x: jax.nn.relu(x), 1.0)
    assert [equation.primitive for equation in program.equations] == [primitives.custom_jvp_call_p]


def test_data_are_followed_through_the_carry_of_a_loop():
    def function(state, x):
        carry, _ = lax.scan(lambda c, a: ((c[0] + 1, c[2] * a, c[1]), c[0]), (state, 0.0, 1.0), x)
        return carry

    program, _ = make_program(function, 1.0, jnp.ones(3))
    found = reached(program, program.inputs[1:])
    assert [atom in found for atom in program.outputs] == [False, True, True]
