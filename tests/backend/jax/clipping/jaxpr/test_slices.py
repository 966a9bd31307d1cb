"""Gradients that do not fit memory are taken a slice of the batch at a time."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from keras_dp import clipping
from keras_dp.backend.jax.clipping.jaxpr import choose
from keras_dp.backend.jax.clipping.jaxpr.rules import slices
from tests.backend.jax.clipping.jaxpr.rules.checks import agree, convolve, problem, wave

pytestmark = pytest.mark.usefixtures("unoptimized")

GIB = 2**30


def dense(p, e):
    return wave(e["x"] @ p["w"])


def convolution(p, e):
    kernel = p["w"].reshape(3, 3, 1, 5)
    return wave(convolve(e["x"][None, ..., None], kernel, 2))


def product(p, e):
    return wave(e["x"].T[:, :5] * p["w"])


def standardised(p, e):
    w = (p["w"] - jnp.mean(p["w"])) / jnp.linalg.norm(p["w"])
    return wave(e["x"] @ w)


def looped(p, e):
    def turn(carry, row):
        carry = jnp.tanh(row[:, None] * p["w"] + carry)
        return carry, jnp.sum(carry)

    return wave(lax.scan(turn, jnp.zeros((9, 5)), e["x"])[1])


def own_derivative(p, e):
    return wave(e["x"] @ doubled(p["w"]))


@jax.custom_jvp
def doubled(w):
    return 2 * w


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2 * tangents[0]))


@pytest.mark.parametrize(
    "loss", [dense, convolution, product, standardised, looped, own_derivative]
)
@pytest.mark.parametrize("examples", [1, 2, 3])
def test_slices_agree_with_the_loop(loss, examples, monkeypatch):
    """Seven examples, of which so many are written out at a time, with a rest or without."""
    monkeypatch.setattr(choose, "WRITTEN_OUT_BYTES", 4 * 45 * examples)
    monkeypatch.setattr(choose, "MEMORY_COST", 0)  # so that products are written out

    def fresh(p, e):  # compiled anew for each setting
        return loss(p, e)

    agree(fresh, *problem(examples, {"w": (9, 5)}, {"x": (6, 9)}, size=7))


@pytest.mark.parametrize(("batch", "numbers", "step"), [(7, 1, 7), (7, 2**26, 1), (9, 2**24, 3)])
def test_slices_are_even_and_fit(batch, numbers, step):
    assert slices.at_once(batch, numbers) == step


def temporary_memory(loss_fn, params, batch):
    """Return the bytes that a compiled clipped sum needs beside its arguments and results."""

    def sum_of(params, batch):
        return clipping.clipped_sum(loss_fn, clip_norm=1.0)(params, batch).grads

    shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(*s), (params, batch), is_leaf=is_shape)
    compiled = jax.jit(sum_of).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def is_shape(node):
    return isinstance(node, tuple) and isinstance(node[0], tuple)


def float32(*shape):
    return shape, np.float32


def columns(p, e):
    return wave(jnp.take(p["w"], e["ids"], axis=1))


@pytest.mark.parametrize(
    ("loss", "data"),
    [(standardised, {"x": float32(512, 3, 2048)}), (columns, {"ids": ((512, 3), np.int32)})],
)
def test_gradients_of_8_gigabytes_need_less_than_one(loss, data):
    """Every example's gradient has 4 million numbers, and there are 512 examples."""
    assert temporary_memory(loss, {"w": float32(2048, 2048)}, data) < GIB


def test_a_wide_mlp_at_4096_examples_trains_within_2_gigabytes():
    def loss(p, e):
        hidden = e["x"]
        for i in range(3):
            hidden = jax.nn.relu(hidden @ p[f"w{i}"] + p[f"b{i}"])
        return jax.nn.logsumexp(hidden @ p["out"])

    widths = [784, 1024, 1024, 1024]
    params = {"out": float32(1024, 10)}
    for i, (rows, columns) in enumerate(itertools.pairwise(widths)):
        params |= {f"w{i}": float32(rows, columns), f"b{i}": float32(columns)}
    assert temporary_memory(loss, params, {"x": float32(4096, 784)}) < 2 * GIB


def test_a_table_of_50000_rows_at_512_examples_trains_within_2_gigabytes():
    def loss(p, e):
        rows = jnp.take(p["table"], e["ids"], axis=0)
        return jnp.sum(jnp.tanh(jnp.mean(rows, axis=0) @ p["out"]))

    params = {"table": float32(50_000, 128), "out": float32(128, 2)}
    assert temporary_memory(loss, params, {"ids": ((512, 64), np.int32)}) < 2 * GIB
