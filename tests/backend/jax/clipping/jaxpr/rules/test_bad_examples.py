"""An example that breaks float32 changes nothing, and none moves the sum by more than it may."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from tests.backend.jax.clipping.jaxpr.rules.checks import (
    agree,
    clip,
    close,
    convolve,
    draws,
    problem,
    wave,
)

SEEDS = st.integers(0, 2**31)
BAD = [np.nan, np.inf, -np.inf, 1e30]


def dense(p, e):
    return wave(jnp.square(e["x"] @ p["w"] + p["b"]) @ p["w"].T)


def image(p, e):
    return jnp.sum(jnp.square(convolve(e["x"][None], p["k"], 2)))


def depthwise(p, e):
    out = convolve(e["x"][None], p["k"], 2, feature_group_count=e["x"].shape[-1])
    return jnp.sum(jnp.square(out))


def embedding(p, e):
    ids = jnp.arange(len(e["x"])) + (e["x"][0, 0] > 0)
    return jnp.sum(jnp.square(p["table"][ids] * e["x"] @ p["w"]))


def recurrent(p, e):
    def turn(hidden, x):
        return jnp.sin(hidden) @ p["w"] + x * p["b"], hidden

    return jnp.sum(jnp.square(lax.scan(turn, jnp.ones(3), e["x"])[0]))


def elementwise(p, e):
    return jnp.sum(jnp.square(e["x"] * p["b"]) + p["w"][0] / jnp.linalg.norm(p["w"]))


MODELS = {
    "dense": (dense, {"w": (3, 3), "b": (3,)}, (4, 3)),
    "wide dense": (dense, {"w": (40, 40), "b": (40,)}, (3, 40)),
    "narrow dense": (dense, {"w": (2, 2), "b": (2,)}, (30, 2)),
    "convolution": (image, {"k": (2, 2, 2, 3)}, (3, 3, 2)),
    "convolution of many channels": (image, {"k": (2, 2, 16, 24)}, (2, 2, 16)),
    "convolution of one pixel": (image, {"k": (1, 1, 2, 3)}, (3, 3, 2)),
    "depthwise convolution": (depthwise, {"k": (2, 2, 1, 2)}, (3, 3, 2)),
    "embedding": (embedding, {"table": (8, 3), "w": (3, 3)}, (4, 3)),
    "long embedding": (embedding, {"table": (602, 2), "w": (2, 3)}, (600, 2)),
    "recurrent": (recurrent, {"w": (3, 3), "b": (3,)}, (4, 3)),
    "elementwise": (elementwise, {"w": (3, 3), "b": (3,)}, (4, 3)),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("model", MODELS)
@draws(1)
@given(SEEDS, st.integers(0, 4), st.booleans())
def test_a_bad_example_adds_nothing_even_if_it_is_masked(model, bad, seed, at, all_of_it):
    loss, shapes, x_shape = MODELS[model]
    params, batch = problem(seed, shapes, {"x": x_shape}, size=5)
    batch["x"][(at,) if all_of_it else (at, *[0] * len(x_shape))] = bad
    mask = np.arange(5) != at
    whole = clip(loss, params, batch, 1.0, np.ones(5))
    masked = clip(loss, params, batch, 1.0, mask)
    clean = clip(loss, params, jax.tree.map(np.nan_to_num, zeroed(batch, at)), 1.0, mask)
    for found in (whole, masked):
        close(found.grads, jax.tree.map(np.asarray, clean.grads), rtol=1e-6)
        np.testing.assert_allclose(found.norms[mask], clean.norms[mask], rtol=1e-6)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.grads))
    assert not np.isfinite(whole.norms[at])


def zeroed(batch, at):
    """Return the batch with a harmless example in the place of the bad one."""
    clean = {name: array.copy() for name, array in batch.items()}
    clean["x"][at] = 0.1
    return clean


@pytest.mark.parametrize("model", MODELS)
@draws(1)
@given(SEEDS)
def test_a_batch_of_one_agrees(model, seed):
    loss, shapes, x_shape = MODELS[model]
    params, batch = problem(seed, shapes, {"x": x_shape}, size=1)
    agree(loss, params, batch, mask=np.ones(1), rtol=3e-5)


@draws(1)
@given(SEEDS)
def test_a_batch_that_is_masked_altogether_agrees(seed):
    agree(dense, *problem(seed, {"w": (3, 3), "b": (3,)}, {"x": (4, 3)}), mask=np.zeros(4))


def length(tree):
    leaves = [np.asarray(a, np.float64) for a in jax.tree.leaves(tree)]
    return np.sqrt(sum((a**2).sum() for a in leaves))


def moved(loss, params, batch, clip_norm):
    """Return how far one example alone moves the sum."""
    return length(clip(loss, params, batch, clip_norm, np.ones(1)).grads)


@pytest.mark.parametrize("tiny", [1e-19, 1e-21, 1e-30])
@pytest.mark.parametrize("positions", [1, 3])
def test_tiny_data_with_a_huge_loss_move_the_sum_by_at_most_clip_norm(tiny, positions):
    """The square of the data underflows in float32, but not the gradient."""

    def loss(p, e):
        return jnp.sum(e["x"] @ p["w"]) * e["y"]

    width = 32 if positions > 1 else 3
    x = np.full((1, positions, width), tiny, np.float32)
    batch = {"x": x, "y": np.array([1e18], np.float32)}
    assert moved(loss, {"w": np.ones((width, width), np.float32)}, batch, 1e-6) <= 1e-6 * 1.0001


@pytest.mark.parametrize("shift", [1e-3, 1e-4, 1e-5])
def test_no_norm_is_too_small_where_positions_nearly_cancel(shift):
    """Gram matrices subtract large numbers here."""

    def loss(p, e):
        return jnp.sum((e["x"] @ p["w"]) * e["y"])

    params, batch = problem(0, {"w": (64, 64)}, {"x": (1, 64), "y": (1, 64)}, size=300)
    batch["x"] = np.concatenate([batch["x"], batch["x"] * np.float32(1 + shift)], axis=1)
    batch["y"] = np.concatenate([batch["y"], -batch["y"]], axis=1)
    x, y = (batch[name].astype(np.float64) for name in "xy")
    true = np.linalg.norm(np.einsum("bpl,bpr->blr", x, y), axis=(1, 2))
    norms = clip(loss, params, batch, 1.0, np.ones(300)).norms
    assert np.all(norms >= true * 0.9999)
    one = {name: array[:1] for name, array in batch.items()}
    assert moved(loss, params, one, 0.1 * true[0]) <= 0.1 * true[0] * 1.0001


def test_huge_data_that_no_gradient_reaches_agree():
    """A dead unit has no gradient, however large the data are that it saw."""

    def loss(p, e):
        return jnp.sum(jax.nn.relu(e["x"] @ p["w"])) + jnp.sum(e["y"] * p["b"])

    params, batch = problem(0, {"w": (3, 2), "b": (2,)}, {"x": (3,), "y": (2,)})
    params["w"] = np.abs(params["w"])
    batch["x"][2] = -1e15
    agree(loss, params, batch)
