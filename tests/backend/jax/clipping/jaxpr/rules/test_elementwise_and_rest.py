"""Weights in all other operations, and weights that are computed before they meet data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from tests.backend.jax.clipping.jaxpr.rules.checks import agree, convolve, draws, problem, wave

SEEDS = st.integers(0, 2**31)
SHAPES = {"w": (3, 4), "v": (4, 3), "b": (4,), "s": (), "one": (1, 1, 3), "k": (2, 2, 3, 2)}
DATA = {"x": (3,), "xs": (5, 3), "y": (4,), "image": (3, 4, 3)}
SMALL = jax.jit(lambda a: 0.3 * a)
INT8 = np.arange(-6, 6, dtype="int8").reshape(3, 4)
FROZEN = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)


@pytest.mark.parametrize("operation", [jnp.add, jnp.multiply, jnp.divide, jnp.maximum, jnp.power])
@draws(2)
@given(SEEDS, st.data())
def test_an_operation_with_any_broadcast_agrees(operation, seed, data):
    full = data.draw(st.lists(st.integers(1, 4), max_size=4), "full")
    kept = data.draw(st.lists(st.booleans(), min_size=len(full), max_size=len(full)), "kept")
    shape = tuple(n if keep else 1 for n, keep in zip(full, kept, strict=True))
    shape = shape[data.draw(st.integers(0, len(shape)), "left out") :]

    def loss(p, e):
        return wave(operation(1.5 + jnp.abs(e["x"]), 0.5 + jnp.abs(p["w"])) * e["y"])

    agree(loss, *problem(seed, {"w": shape}, {"x": tuple(full), "y": tuple(full)}))


@jax.custom_jvp
def odd(w, x):
    return jnp.sin(w) * x


@odd.defjvp
def odd_jvp(primals, tangents):
    (w, x), (dw, dx) = primals, tangents
    return odd(w, x), 3.0 * dw + jnp.cos(x) * dx  # not the derivative, on purpose


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def strange(w, x, scale):
    return x @ w * scale


strange.defvjp(
    lambda w, x, scale: (strange(w, x, scale), (w, x)),
    lambda scale, kept, g: (jnp.outer(jnp.sin(kept[1]), g) * scale**2, jnp.cos(kept[0]) @ g),
)


@jax.custom_vjp
def bounded(w):
    """Return the weight; its gradient is cut off, as some do against explosions."""
    return w


bounded.defvjp(lambda w: (w, None), lambda _, g: (jnp.clip(g, -0.5, 0.5),))


def round_through(w):
    return w + lax.stop_gradient(jnp.round(w) - w)


def standardised(p, e):
    k = (p["k"] - p["k"].mean((0, 1, 2))) / (p["k"].std((0, 1, 2)) + 0.1)
    return convolve(e["image"][None], k, 2)


def spectral(p, e):
    u, v = jnp.ones(3) / jnp.sqrt(3.0), jnp.ones(4) / 2.0
    return e["xs"] @ (p["w"] / (u @ p["w"] @ v + 5.0)) + p["b"]


def attention(p, e):
    q, k = e["xs"] @ p["w"], e["xs"] @ p["v"].T
    mixed = jax.nn.softmax(q @ k.T / 2.0) @ e["xs"]
    return jnp.concatenate([p["one"][0], mixed]) @ p["w"]


def layer_norm(p, e):
    x = e["xs"] @ p["w"]
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-3)
    return x * p["b"] + p["v"][:, 0]


def filtered(p, e):
    """A product in the frequency domain; everything between is complex."""
    return jnp.fft.irfft(jnp.fft.rfft(e["y"]) * jnp.fft.rfft(p["b"]), n=4)


def checkpointed(p, e, policy=None):
    layer = jax.checkpoint(lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"] + p["s"], policy=policy)
    return layer(p, layer(p, e["xs"]))


def gradient_of_the_data(p, e):
    """A penalty on the gradient with respect to the data: second derivatives."""
    return jax.grad(lambda x: jnp.sum(jnp.tanh(x @ p["w"]) ** 2))(e["x"]) * p["one"]


FORMS = {
    "bias": lambda p, e: e["xs"] @ p["w"] + p["b"],
    "bias twice": lambda p, e: e["xs"] @ p["w"] + p["b"] + jnp.sin(p["b"] * e["y"]),
    "sum of two products": lambda p, e: e["xs"] @ p["w"] + e["xs"][::-1] @ p["v"].T + p["b"],
    "sum that is used again": lambda p, e: (lambda h: (h + p["b"]) * h)(e["x"] @ p["w"]),
    "residual": lambda p, e: e["y"] + (e["y"] + e["x"] @ p["w"]) @ p["v"] @ p["w"],
    "scale": lambda p, e: e["xs"] * p["one"] * p["s"],
    "scale before": lambda p, e: e["xs"] @ (p["w"] * p["b"]),
    "affine": layer_norm,
    "class token": lambda p, e: jnp.concatenate([p["one"][0], e["xs"]]) @ p["w"],
    "position table": lambda p, e: (e["xs"][:4] + p["v"]) @ p["w"],
    "stack": lambda p, e: jnp.stack([p["b"], e["y"], p["b"]]) @ p["v"],
    "where": lambda p, e: jnp.where(e["y"] > 0, p["b"], e["y"] * p["s"]),
    "select of weights": lambda p, e: jnp.where(e["x"][:, None] > 0, p["w"], p["v"].T),
    "mask token": lambda p, e: jnp.where(e["xs"][:, :1] > 0, p["one"][0], e["xs"]) @ p["w"],
    "power": lambda p, e: jnp.abs(p["b"]) ** (1.0 + e["y"] ** 2),
    "power of data": lambda p, e: (0.5 + jnp.abs(e["y"])) ** p["b"],
    "exponential": lambda p, e: jnp.exp(0.3 * p["b"] * e["y"]),
    "logarithm": lambda p, e: jnp.log(1.0 + jnp.abs(p["w"]) * e["x"][:, None] ** 2),
    "sort": lambda p, e: jnp.sort(p["b"] * e["y"]) * jnp.arange(4.0),
    "sort of weights": lambda p, e: jnp.sort(p["b"]) * e["y"],
    "top_k": lambda p, e: lax.top_k(p["b"] + e["y"], 2)[0] * jnp.array([1.0, 3.0]),
    "maximum": lambda p, e: jnp.max(e["xs"] @ p["w"], axis=0) * e["y"],
    "cumsum": lambda p, e: jnp.cumsum(p["b"] * e["y"]),
    "cumprod of weights": lambda p, e: jnp.cumprod(p["b"]) * e["y"],
    "custom_jvp": lambda p, e: odd(p["b"], e["y"]) + odd(e["y"], p["b"]),
    "custom_jvp of weights": lambda p, e: odd(p["b"], 2.0) * e["y"],
    "custom_vjp": lambda p, e: strange(p["w"], e["x"], 2.0) + p["b"],
    "custom_vjp of weights": lambda p, e: strange(p["w"], p["one"][0, 0], 2.0) * e["y"],
    "custom_vjp that is not linear": lambda p, e: e["y"] * bounded(p["b"]),
    "checkpoint": checkpointed,
    "checkpoint with a policy": functools.partial(
        checkpointed, policy=jax.checkpoint_policies.dots_saveable
    ),
    "jit in jit": lambda p, e: SMALL(SMALL(e["xs"]) @ SMALL(p["w"])) + SMALL(SMALL(p["b"])),
    "relu, gelu": lambda p, e: jax.nn.gelu(jax.nn.relu(e["xs"] @ p["w"]) @ p["v"]),
    "silu, softplus": lambda p, e: jax.nn.softplus(p["b"] * jax.nn.silu(e["y"] + p["b"])),
    "glu, elu": lambda p, e: jax.nn.glu(jax.nn.elu(e["xs"] @ p["w"])) * p["s"],
    "log_softmax": lambda p, e: jax.nn.log_softmax(e["xs"] @ p["w"])[:, 1],
    "logsumexp of weights": lambda p, e: jax.nn.logsumexp(p["w"] + e["x"][:, None], axis=0),
    "stop_gradient": lambda p, e: e["xs"] @ lax.stop_gradient(p["w"]) @ p["v"] @ p["w"],
    "stop_gradient of all": lambda p, e: e["xs"] @ lax.stop_gradient(p["w"]),
    "rounded": lambda p, e: e["xs"] @ round_through(3.0 * p["w"]),
    "rounded without a gradient": lambda p, e: e["xs"] @ jnp.round(p["w"]) + p["b"],
    "cast to int": lambda p, e: e["y"] * (p["b"] * 3).astype(int) + p["b"],
    "cast of the product": lambda p, e: jnp.round(e["x"] @ p["w"]) + e["y"] * p["s"],
    "scalar": lambda p, e: p["s"] * e["s"] if "s" in e else p["s"] * jnp.sum(e["y"]),
    "scalar minus data": lambda p, e: (p["s"] - e["y"]) ** 2,
    "shape (1, 1, 3)": lambda p, e: e["xs"][None] * p["one"] + p["one"][0] @ p["w"] @ p["v"],
    "attention": attention,
    "fft": filtered,
    "fft of a product": lambda p, e: jnp.abs(jnp.fft.fft(e["xs"] @ p["w"]) + p["b"]) ** 2,
    "complex product": lambda p, e: jnp.abs((e["xs"] * (1 + 2j)) @ p["w"] + 1j * p["b"]) ** 2,
    "complex scale": lambda p, e: jnp.real(jnp.exp(1j * e["y"]) * p["b"]),
    "complex weight": lambda p, e: jnp.real((e["xs"] + 0.5j) @ lax.complex(p["w"], p["v"].T)),
    "standardised weights": standardised,
    "spectral normalisation": spectral,
    "low-rank adapter": lambda p, e: e["xs"] @ (FROZEN + p["w"] @ p["v"] @ FROZEN) + p["b"],
    "low-rank adapter aside": lambda p, e: e["xs"] @ FROZEN + e["xs"] @ p["w"] @ p["v"] @ p["w"],
    "quantised weights": lambda p, e: e["xs"] @ (INT8 * p["b"]) + p["s"],
    "quantised weights, late": lambda p, e: (e["xs"] @ INT8.astype("float32")) * p["b"],
    "weight as a mixture": lambda p, e: e["x"] @ (e["y"][0] * p["w"] + e["y"][1] * p["v"].T),
    "weights first among themselves": lambda p, e: (
        e["xs"] @ (p["w"] @ p["v"]) + p["one"][0] @ FROZEN[:, :3]
    ),
    "determinant": lambda p, e: jnp.linalg.det(p["w"] @ p["v"] + jnp.diag(e["x"])),
    "solve": lambda p, e: jnp.linalg.solve(p["w"] @ p["w"].T + 3.0 * jnp.eye(3), e["x"]),
    "second derivatives": gradient_of_the_data,
    "pooling": lambda p, e: lax.reduce_window(
        e["xs"] @ p["w"] + p["b"], -jnp.inf, lax.max, (2, 1), (1, 1), "VALID"
    ),
    "dropout": lambda p, e: jnp.where(
        jax.random.bernoulli(jax.random.key(e["y"][0].view(jnp.int32)), 0.5, (5, 4)),
        e["xs"] @ p["w"],
        0.0,
    ),
    "clipped weights": lambda p, e: e["xs"] @ jnp.clip(p["w"], -0.5, 0.5),
    "roll": lambda p, e: jnp.roll(p["b"], 1) * e["y"] + p["b"],
    "einsum of three": lambda p, e: jnp.einsum("ti,ij,jk->tk", e["xs"], p["w"], p["v"]),
    "only penalty": lambda p, e: jnp.sum(p["w"] ** 2) + 0.0 * e["y"],
}


@pytest.mark.parametrize("form", FORMS)
@draws(1)
@given(SEEDS)
def test_an_operation_agrees(form, seed):
    """Every form leaves some weights unused: their gradient is zero."""
    agree(lambda p, e: wave(FORMS[form](p, e)), *problem(seed, SHAPES, DATA))


LOSSES = {
    "no data": lambda p, e: jnp.sum(p["w"] ** 2) + p["s"],
    "one weight itself": lambda p, e: p["s"],
    "no weight": lambda p, e: jnp.sum(e["x"] ** 2),
    "nothing": lambda p, e: jnp.float32(2.0),
    "one number of the example": lambda p, e: e["x"][0],
    "a penalty": lambda p, e: jnp.sum((e["x"] @ p["w"]) ** 2) + 3.0 * jnp.sum(p["w"] ** 2),
    "a penalty times data": lambda p, e: wave(e["x"] @ p["w"]) * jnp.sum(jnp.abs(p["w"])),
    "an own penalty": lambda p, e: wave(e["x"] @ p["w"]) + jnp.sum(p["b"] ** 2),
    "a penalty on a product": lambda p, e: wave(e["x"] @ p["w"]) + wave(p["w"] @ p["v"]),
    "an empty weight": lambda p, e: wave(e["x"] @ p["w"]) + jnp.sum(p["empty"] ** 2),
    "a product with an empty weight": lambda p, e: (
        wave(e["xs"][:, :0] @ p["empty"]) + wave(e["x"] * p["one"])
    ),
    "an empty look-up": lambda p, e: (
        wave(p["v"][e["xs"][:0, 0].astype(int)]) + wave(e["y"] * p["s"])
    ),
    "an empty weight joined": lambda p, e: wave(jnp.concatenate([p["empty"], e["xs"]]) @ p["w"]),
}


@pytest.mark.parametrize("name", LOSSES)
@draws(1)
@given(SEEDS)
def test_a_loss_agrees(name, seed):
    params, batch = problem(seed, SHAPES | {"empty": (0, 3)}, DATA)
    agree(LOSSES[name], params, batch)


@draws(1)
@given(SEEDS)
def test_a_number_as_the_only_weight_agrees(seed):
    params, batch = problem(seed, {"s": ()}, {"x": ()})
    agree(lambda p, x: jnp.sin(p * x), params["s"], batch["x"])


@draws(1)
@given(SEEDS)
def test_weights_in_several_types_agree(seed):
    def loss(p, e):
        hidden = jnp.tanh(e["x"] @ p["w"].astype(jnp.float32)) + p["b"].astype(jnp.float32)
        return wave(hidden @ p["v"])

    params, batch = problem(seed, SHAPES, DATA)
    types = {"w": jnp.bfloat16, "b": jnp.float16}
    params = {n: jnp.asarray(a, types.get(n)) for n, a in params.items()}
    agree(loss, params, batch, rtol=1e-2)
