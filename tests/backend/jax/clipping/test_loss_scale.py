"""Gradients in float16: scaled before the backward pass, free of the scale at the clip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from keras_dp import clipping
from keras_dp.backend.jax.clipping.loss_scale import STEP, TRIES
from keras_dp.clipping import FLOAT16_SCALE

METHODS = sorted(clipping.METHODS)
LARGEST = float(np.finfo(np.float16).max)


def linear(w, row):
    """A loss in float16 whose gradient is `size * x`, with an output gradient of `size`."""
    x, size = row["x"].astype("float16"), row["size"]
    return jnp.sum(w.astype("float16") * x).astype(jnp.float32) * size


def two_layers(params, row):
    hidden = jnp.tanh(row["x"].astype("float16") @ params["a"].astype("float16"))
    out = hidden @ params["b"].astype("float16")
    return jnp.sum(jnp.square(out.astype(jnp.float32) - 1)) * row["size"]


def in_float32(params, row):
    out = jnp.tanh(row["x"] @ params["a"]) @ params["b"]
    return jnp.sum(jnp.square(out - 1)) * row["size"]


def rows(sizes, width=4):
    x = np.random.default_rng(0).uniform(0.5, 1.0, (len(sizes), width)).astype("float16")
    return {"x": x.astype("float32"), "size": np.array(sizes, "float32")}


def clip(loss, params, batch, clip_norm=1.0, loss_scale=FLOAT16_SCALE, **settings):
    function = clipping.clipped_sum(loss, clip_norm=clip_norm, loss_scale=loss_scale, **settings)
    return jax.jit(function)(params, batch)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e-6, 1.0, 3e4, 1e6])
def test_norms_and_sums_are_those_of_float32_whatever_the_size_of_gradients(method, size):
    rng = np.random.default_rng(1)
    params = {n: rng.normal(size=(4, 4)).astype("float32") for n in "ab"}
    batch = rows([size] * 5)
    exact = clip(in_float32, params, batch, 0.3 * size, loss_scale=None, method=method)
    found = clip(two_layers, params, batch, 0.3 * size, method=method)
    np.testing.assert_allclose(found.norms, exact.norms, rtol=0.01)
    np.testing.assert_allclose(found.losses, exact.losses, rtol=0.01)
    for name in "ab":
        largest = np.abs(exact.grads[name]).max()
        np.testing.assert_allclose(found.grads[name], exact.grads[name], atol=0.02 * largest)


def test_without_a_scale_these_gradients_would_be_lost():
    batch = rows([1e-8, 1e6])
    plain = clip(linear, jnp.ones(4), batch, loss_scale=None)
    scaled = clip(linear, jnp.ones(4), batch)
    expected = batch["size"] * np.linalg.norm(batch["x"], axis=1)
    assert plain.norms[0] == 0 and not np.isfinite(plain.norms[1])
    np.testing.assert_allclose(scaled.norms, expected, rtol=0.03)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", sorted(clipping.CLIP_RULES))
def test_every_clip_rule_sees_gradients_without_the_scale(rule, method):
    rng = np.random.default_rng(2)
    params = {n: rng.normal(size=(4, 4)).astype("float32") for n in "ab"}
    batch = rows(0.1 * rng.lognormal(size=9))
    found, plain = (
        clip(in_float32, params, batch, loss_scale=scale, clipping=rule, method=method)
        for scale in (FLOAT16_SCALE, None)
    )
    assert np.any(plain.norms > 1) and np.any(plain.norms < 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6), found, plain)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [1e5, 1e30, np.inf, np.nan])
def test_an_example_that_overflows_leaves_all_others_as_they_are_bit_for_bit(method, bad):
    """A scale for all together would round them otherwise, and so tell that it was there."""
    sizes = list(1e-5 * np.random.default_rng(3).lognormal(size=7))
    calm = clip(linear, jnp.ones(4), rows([*sizes, 0.0]), method=method)
    hit = clip(linear, jnp.ones(4), rows([*sizes, bad]), method=method)
    np.testing.assert_array_equal(calm.norms[:7], hit.norms[:7])
    moved = np.linalg.norm(np.asarray(hit.grads) - np.asarray(calm.grads))
    hopeless = bad > 1e29 or np.isnan(bad)
    assert np.isfinite(hit.norms[7]) == (not hopeless)
    assert moved == (0.0 if hopeless else pytest.approx(1.0, rel=1e-5))


def test_a_gradient_is_lost_only_where_the_smallest_scale_overflows():
    smallest = FLOAT16_SCALE / STEP ** (TRIES - 1)
    edge = LARGEST / smallest
    batch = {"x": np.ones((2, 1), "float32"), "size": np.array([0.99, 1.01]) * edge}
    found = clip(linear, jnp.ones(1), batch)
    np.testing.assert_allclose(found.norms, [0.99 * edge, np.inf], rtol=1e-3)
    np.testing.assert_allclose(found.grads, [1.0], rtol=1e-6)


def test_padding_and_aux_come_through():
    def with_aux(w, row):
        return linear(w, row), {"twice": 2 * row["x"], "whole": jnp.int32(3)}

    batch = rows([1.0, np.nan, 1e5])
    clipped = clipping.clipped_sum(with_aux, clip_norm=0.5, loss_scale=FLOAT16_SCALE)
    found = clipped(jnp.ones(4), batch, jnp.array([1, 0, 0]))
    np.testing.assert_array_equal(found.aux["twice"], 2 * batch["x"])
    np.testing.assert_array_equal(found.aux["whole"], [3, 3, 3])
    np.testing.assert_allclose(np.linalg.norm(found.grads), 0.5, rtol=1e-3)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, "256"])
def test_a_bad_loss_scale_is_refused(bad):
    with pytest.raises(ValueError, match="`loss_scale` must be"):
        clipping.clipped_sum(linear, clip_norm=1.0, loss_scale=bad)
