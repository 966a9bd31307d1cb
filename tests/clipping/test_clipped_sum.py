"""The clipped sum against the loop over examples, by hand and against published numbers."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dp import clipping

pytestmark = pytest.mark.usefixtures("unoptimized")

VECTORS = json.loads(
    (pathlib.Path(__file__).parents[1] / "data" / "vectors.json").read_text(encoding="utf-8")
)["gradients"]


def mlp_loss(params, example):
    hidden = jnp.tanh(example["x"] @ params["w"] + params["b"])
    return jnp.sum((hidden @ params["v"] - example["y"]) ** 2), hidden


def mlp_problem(rng, size):
    params = {
        "w": rng.normal(size=(4, 6)).astype("float32"),
        "b": rng.normal(size=(6,)).astype("float32"),
        "v": rng.normal(size=(6, 2)).astype("float32"),
    }
    scale = 10 ** rng.uniform(-2, 2, size=(size, 1))
    batch = {
        "x": (scale * rng.normal(size=(size, 4))).astype("float32"),
        "y": rng.normal(size=(size, 2)).astype("float32"),
    }
    return params, batch


LOSSES = jax.jit(jax.vmap(lambda params, example: mlp_loss(params, example)[0], (None, 0)))
GRADIENT = jax.jit(jax.grad(lambda params, example: mlp_loss(params, example)[0]))


def loop(params, batch, clip_norm, mask=None):
    """The sum by its definition, one example at a time, in float64."""
    size = len(jax.tree.leaves(batch)[0])
    total = jax.tree.map(lambda a: np.zeros(a.shape), params)
    norms = []
    for i in range(size):
        example = jax.tree.map(lambda a, i=i: a[i], batch)
        grads = jax.tree.map(lambda g: np.asarray(g, np.float64), GRADIENT(params, example))
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
        norms.append(norm)
        if mask is None or mask[i]:
            factor = min(1.0, clip_norm / norm)
            total = jax.tree.map(lambda t, g, f=factor: t + f * g, total, grads)
    return total, np.array(norms)


def close(actual, expected, rtol=1e-5):
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * scale),
        actual,
        expected,
    )


@functools.partial(jax.jit, static_argnums=0)
def clip(method, params, batch, mask, clip_norm):
    return clipping.clipped_sum(mlp_loss, clip_norm=clip_norm, method=method)(params, batch, mask)


@pytest.mark.parametrize("method", sorted(clipping.METHODS))
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([1, 3, 8]), clip_norm=st.floats(1e-3, 1e3))
def test_sum_and_norms_equal_the_loop_over_examples(method, seed, size, clip_norm):
    rng = np.random.default_rng(seed)
    params, batch = mlp_problem(rng, size)
    mask = rng.integers(0, 2, size)
    result = clip(method, params, batch, mask, clip_norm)
    expected, norms = loop(params, batch, clip_norm, mask)
    close(result.grads, expected)
    np.testing.assert_allclose(result.norms, norms, rtol=1e-5)
    assert result.aux.shape == (size, 6)
    np.testing.assert_allclose(result.losses, LOSSES(params, batch), rtol=1e-5)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), clip_norm=st.floats(1e-2, 1e2))
def test_the_sum_moves_by_at_most_clip_norm_when_one_example_is_removed(seed, clip_norm):
    params, batch = mlp_problem(np.random.default_rng(seed), 6)
    whole = clip("auto", params, batch, np.ones(6), clip_norm).grads
    for i in range(6):
        mask = np.ones(6)
        mask[i] = 0
        without = clip("auto", params, batch, mask, clip_norm).grads
        moved = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), whole, without)
        assert np.sqrt(sum(jax.tree.leaves(moved))) <= clip_norm * (1 + 1e-4)


def test_squared_distances_give_the_published_norms_and_sum():
    row = VECTORS[0]
    clip = clipping.clipped_sum(lambda p, x: 0.5 * jnp.mean((p - x) ** 2), clip_norm=2.5)
    result = clip(jnp.array(2.0), jnp.array([1.0, 4.0, 7.0]))
    np.testing.assert_allclose(result.norms, row["norms"])
    np.testing.assert_allclose(result.grads, row["clipped_sum"])


def test_a_linear_model_gives_the_published_clipped_gradient():
    row = VECTORS[1]

    def loss(w, example):
        x, y = example
        return (w @ x - y) ** 2

    # prediction 3 * 1 - 2 * 2 = -1, residual -5, gradient 2 * -5 * x = (-10, -20)
    batch = (jnp.array([[1.0, 2.0]]), jnp.array([4.0]))
    result = clipping.clipped_sum(loss, clip_norm=float(row["clip"]))(jnp.array([3.0, -2.0]), batch)
    np.testing.assert_allclose(result.norms, [np.sqrt(500)], rtol=1e-6)
    np.testing.assert_allclose(result.grads, row["clipped"], rtol=1e-6)


def test_an_embedding_used_twice_adds_up_before_the_norm():
    """The first example reads row 1 twice: without the cross term its norm would be smaller."""
    row = VECTORS[2]
    batch = (
        jnp.array([[1, 1], [2, 0], [2, 0]]),
        jnp.array([[0.2, 0.2], [0.3, 0.1], [0.3, 0.1]]),
    )
    clip = clipping.clipped_sum(lambda t, e: jnp.sum(t[e[0]] * e[1][:, None]), clip_norm=1.0)
    norms = clip(jnp.zeros((3, 1)), batch).norms
    np.testing.assert_allclose(norms**2, row["squared_norms"], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_an_example_without_a_finite_norm_adds_nothing(bad):
    params, batch = mlp_problem(np.random.default_rng(0), 5)
    batch["y"][2] = bad
    clip = clipping.clipped_sum(mlp_loss, clip_norm=0.5)
    result = clip(params, batch)
    clean = clip(params, batch, np.array([1, 1, 0, 1, 1]))
    close(result.grads, clean.grads, rtol=1e-7)
    assert np.isfinite(jax.tree.leaves(result.grads)[0]).all()


def test_a_zero_gradient_adds_nothing_and_makes_no_nan():
    clip = clipping.clipped_sum(lambda p, x: 0.0 * jnp.sum(p) * x, clip_norm=1.0)
    result = clip(jnp.ones(3), jnp.ones(4))
    np.testing.assert_array_equal(result.grads, np.zeros(3))


def test_low_precision_weights_are_summed_in_float32():
    clip = clipping.clipped_sum(lambda p, x: jnp.sum(p.astype(jnp.float32) * x), clip_norm=1.0)
    result = clip(jnp.ones(3, jnp.bfloat16), jnp.full((300, 3), 1e-3))
    assert result.grads.dtype == jnp.float32
    np.testing.assert_allclose(result.grads, 0.3, rtol=5e-3)  # bfloat16 sums would stop at 0.25


def test_clip_norm_may_be_traced():
    params, batch = mlp_problem(np.random.default_rng(0), 3)
    traced = jax.jit(lambda c: clipping.clipped_sum(mlp_loss, clip_norm=c)(params, batch).grads)
    close(traced(jnp.float32(0.3)), loop(params, batch, 0.3)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip_norm": 0.0}, "clip_norm.*above 0.*0.0"),
        ({"clip_norm": -1.0}, "clip_norm.*-1.0"),
        ({"clip_norm": float("nan")}, "clip_norm.*nan"),
        ({"clip_norm": 1.0, "method": "magic"}, "method.*'auto', 'vmap'.*'magic'"),
        ({"clip_norm": 1.0, "clipping": "magic"}, "clipping.*'flat'.*'magic'"),
    ],
)
def test_bad_settings_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        clipping.clipped_sum(mlp_loss, **arguments)


def test_a_loss_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match=r"scalar loss.*\(2,\)"):
        clipping.clipped_sum(lambda p, x: p * x, clip_norm=1.0)(jnp.ones(2), jnp.ones((3, 2)))


def test_integer_parameters_are_refused_by_path():
    with pytest.raises(ValueError, match=r"floating point.*int32 at params\['n'\]"):
        clipping.clipped_sum(lambda p, x: x * p["n"], clip_norm=1.0)(
            {"n": jnp.array(1)}, jnp.ones(3)
        )


def test_leaves_without_a_common_batch_axis_are_refused():
    clip = clipping.clipped_sum(lambda p, e: p * e["a"], clip_norm=1.0)
    with pytest.raises(ValueError, match=r"same leading batch axis.*\(2,\), \(3,\)"):
        clip(jnp.ones(()), {"a": jnp.ones(2), "b": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"`mask` must have shape \(2,\).*\(3,\)"):
        clip(jnp.ones(()), {"a": jnp.ones(2)}, jnp.ones(3))


@pytest.mark.parametrize("method", sorted(clipping.METHODS))
def test_a_batch_without_examples_gives_zeros(method):
    params, batch = mlp_problem(np.random.default_rng(0), 3)
    empty = jax.tree.map(lambda a: a[:0], batch)
    result = clipping.clipped_sum(mlp_loss, clip_norm=1.0, method=method)(params, empty)
    assert jax.tree.map(jnp.shape, result.grads) == jax.tree.map(jnp.shape, params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(result.grads))
    assert result.norms.shape == result.losses.shape == (0,)
    assert result.aux.shape == (0, 6)


@pytest.mark.parametrize("method", sorted(clipping.METHODS))
def test_a_parameter_that_is_never_used_has_a_gradient_of_zero(method):
    clip = clipping.clipped_sum(lambda p, x: p["used"] * x, clip_norm=1.0, method=method)
    result = clip({"used": jnp.array(1.0), "idle": jnp.ones((2, 3))}, jnp.array([0.5, 0.25]))
    np.testing.assert_array_equal(result.grads["idle"], np.zeros((2, 3)))
    np.testing.assert_allclose(result.norms, [0.5, 0.25])


def test_the_clipped_sum_equals_that_of_jax_privacy():
    """Another library's per-example clipping as an outside oracle, on a small network."""
    import jax_privacy

    params, batch = mlp_problem(np.random.default_rng(3), 16)
    theirs = jax_privacy.clipped_grad(
        lambda p, example: mlp_loss(p, example)[0],
        l2_clip_norm=0.7,
        batch_argnums=1,
        keep_batch_dim=False,
    )
    close(clipping.clipped_sum(mlp_loss, clip_norm=0.7)(params, batch).grads, theirs(params, batch))
