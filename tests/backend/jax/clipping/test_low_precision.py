"""Sums, norms and factors in float32 when models compute in bfloat16 or float16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from keras_dp import clipping
from keras_dp.backend.jax.clipping.jaxpr import compat
from tests.backend.jax.clipping.jaxpr.rules.checks import convolve

SIZE = 512
SHAPES = {
    "dense": ((6, 8), (6,)),
    "dense, positions": ((40, 30), (3, 40)),
    "dense, written out": ((2, 3), (40, 2)),
    "scale": ((6,), (5, 6)),
    "transposed": ((8, 6), (6,)),
    "convolution": ((3, 3, 2, 2), (1, 6, 6, 2)),
    "convolution, gram": ((3, 3, 24, 24), (1, 3, 3, 24)),
    "standardised": ((3, 3, 24, 24), (1, 3, 3, 24)),
    "table": ((9, 4), (3, 9)),
    "low rank": ((6, 8), (6,)),
}


def standardised(kernel):
    mean = jnp.mean(kernel, axis=(0, 1, 2), keepdims=True)
    return (kernel - mean) / jnp.sqrt(jnp.var(kernel, axis=(0, 1, 2), keepdims=True) + 1e-3)


def output(form, w, x):
    if form == "scale":
        return x * w
    if form == "transposed":
        return x @ w.T
    if form.startswith("convolution"):
        return convolve(x, w, 2)
    if form == "standardised":
        return convolve(x, standardised(w), 2)
    if form == "table":
        return w[jnp.argmax(x, axis=-1)]
    if form == "low rank":
        return x @ (w + w[:, :2] @ w[:2])
    return x @ w


def problem(form, dtype, mixed):
    """Return a loss, weights and data; all gradients point much the same way, so sums are large."""
    shape, data = SHAPES[form]
    rng = np.random.default_rng(0)
    weights = jnp.asarray(0.3 * rng.normal(size=shape), "float32" if mixed else dtype)
    one, others = rng.normal(size=data), rng.normal(size=(SIZE, *data))
    x = (one + 0.1 * others).astype("float32")

    def loss(w, row):
        out = output(form, w.astype(dtype), row.astype(dtype))
        return jnp.sum(jnp.sin(out) + 2 * out).astype(jnp.float32)

    return loss, weights, x


@pytest.mark.parametrize(("dtype", "mixed"), [("bfloat16", True), ("float16", False)])
@pytest.mark.parametrize("form", SHAPES)
def test_no_example_moves_a_large_sum_by_more_than_the_clip_norm(form, dtype, mixed):
    """A sum that was rounded to 8 or 11 bits would jump by far more.

    Float32 rounds too, relative to the sum of all examples; that is the tolerance.
    """
    loss, weights, x = problem(form, dtype, mixed)
    clip_norm = 0.01
    clip = jax.jit(clipping.clipped_sum(loss, clip_norm=clip_norm))
    everyone = jnp.ones(SIZE)
    whole = clip(weights, x, everyone)
    assert whole.grads.dtype == jnp.float32
    assert np.min(whole.norms) > clip_norm
    assert np.linalg.norm(whole.grads) > 0.5 * SIZE * clip_norm
    for left_out in range(3):
        rest = clip(weights, x, everyone.at[left_out].set(0))
        moved = np.linalg.norm(np.asarray(whole.grads) - np.asarray(rest.grads))
        assert moved == pytest.approx(clip_norm, rel=3e-3)


def has_equations(parameter):
    return hasattr(compat.open_jaxpr(parameter)[0], "eqns")


def products(jaxpr):
    """Yield the matrix products of a jaxpr, those of inner ones included."""
    for equation in jaxpr.eqns:
        if equation.primitive is lax.dot_general_p:
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=has_equations):
            if has_equations(inner):
                yield from products(compat.open_jaxpr(inner)[0])


def test_accelerators_are_asked_for_float32_products_wherever_examples_are_summed():
    """Their default rounds the factors; CPUs have one precision, so the request itself is read."""
    loss, weights, x = problem("dense, positions", "float32", True)
    traced = jax.make_jaxpr(clipping.clipped_sum(loss, clip_norm=1.0))(weights, x)
    sums = [e for e in products(traced.jaxpr) if e.outvars[0].aval.shape == (1, *weights.shape)]
    grams = [e for e in products(traced.jaxpr) if e.outvars[0].aval.shape[-2:] == (3, 3)]
    assert len(sums) == 2 and len(grams) == 2  # a sum for finite examples, one for others
    highest = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
    assert all(product.params["precision"] == highest for product in (*sums, *grams))
