"""The fast engine against the slow loop over single examples."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import Phase, settings
from jax import lax

from keras_dp import clipping

TIMES = int(os.environ.get("KERAS_DP_DRAWS", "1"))  # for a longer hunt on an idle machine
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
LETTERS = {1: "W", 2: "HW", 3: "DHW"}  # of the spatial axes
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # a shrink would compile for minutes


def draws(count):
    """Return hypothesis settings; compiling takes nearly all the time, so draws are few."""
    return settings(deadline=None, max_examples=count * TIMES, phases=PHASES)


def normal(rng, shape):
    return rng.normal(size=shape).astype("float32")


def problem(seed, params, data, size=4):
    """Return random weights and a random batch for dictionaries of shapes."""
    rng = np.random.default_rng(seed)
    scale = 2 ** rng.uniform(-1, 1, size=size).astype("float32")
    rows = {
        name: scale.reshape(-1, *[1] * len(shape)) * normal(rng, (size, *shape))
        for name, shape in data.items()
    }
    return {name: normal(rng, shape) for name, shape in params.items()}, rows


def wave(out):
    """Return a loss whose gradient differs from entry to entry."""
    return jnp.sum(jnp.sin(out) + 0.5 * out)


def layout(rank, order="last"):
    """Return dimension numbers with the channels last or first, or turned round altogether."""
    space = LETTERS[rank]
    if order == "last":
        return f"N{space}C", f"{space}IO", f"N{space}C"
    if order == "first":
        return f"NC{space}", f"OI{space}", f"NC{space}"
    return f"{space}CN", f"I{space[::-1]}O", f"C{space}N"


def convolve(x, kernel, rank, **settings):
    settings = {"window_strides": (1,) * rank, "padding": "SAME", **settings}
    settings.setdefault("dimension_numbers", layout(rank))
    return lax.conv_general_dilated(x, kernel, **settings)


def gradients(loss_fn, params, batch):
    """Return losses and float64 gradients by `jax.grad` of one example at a time."""
    grad = jax.jit(jax.value_and_grad(loss_fn), compiler_options=QUICK)
    losses, found = [], []
    for i in range(len(jax.tree.leaves(batch)[0])):
        loss, tree = grad(params, jax.tree.map(lambda a, i=i: a[i], batch))
        losses.append(float(loss))
        found.append(jax.tree.map(lambda g: np.asarray(g, np.float64), tree))
    return np.array(losses), found


@functools.lru_cache(maxsize=64)
def compiled(loss_fn):
    """Return the clipped sum as a function that is compiled, as a training step would be."""

    def step(clip_norm, params, batch, mask):
        return clipping.clipped_sum(loss_fn, clip_norm=clip_norm)(params, batch, mask)

    return jax.jit(step, compiler_options=QUICK)


def clip(loss_fn, params, batch, clip_norm, mask):
    mask = jnp.asarray(mask, jnp.float32)
    return compiled(loss_fn)(jnp.float32(clip_norm), params, batch, mask)


def largest(*trees):
    return max((np.abs(a).max() for a in jax.tree.leaves(trees) if a.size), default=0.0)


def close(actual, expected, rtol, terms=()):
    """Compare every leaf, small entries against the largest over all leaves, or over the terms."""
    atol = rtol * largest(expected, *terms)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, wanted), found in zip(
        jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(actual), strict=True
    ):
        name = f"sum of the gradients of params{jax.tree_util.keystr(path)}"
        assert found.shape == wanted.shape, name
        assert found.dtype == jnp.float32, name
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, err_msg=name)


def agree(loss_fn, params, batch, rtol=1e-5, mask=None):
    """Compare `method="auto"` with the definition, at the median of the norms.

    Args:
        loss_fn: Loss of one example.
        params: Tree of weights.
        batch: Tree of arrays with a leading batch axis.
        rtol: Tolerance, relative to an entry and to the largest entry over all leaves.
        mask: Which examples count; all but the second by default.
    """
    losses, grads = gradients(loss_fn, params, batch)
    if mask is None:
        mask = np.arange(len(losses)) != 1
    norms = np.array([np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(t))) for t in grads])
    clip_norm = np.median(norms) or 1.0
    factors = mask * clip_norm / np.maximum(norms, clip_norm)
    terms = [jax.tree.map(lambda a, f=f: f * a, g) for f, g in zip(factors, grads, strict=True)]
    expected = jax.tree.map(lambda *added: sum(added), *terms)
    result = clip(loss_fn, params, batch, clip_norm, mask)
    atol = rtol * largest(grads)
    np.testing.assert_allclose(
        result.norms, norms, rtol=rtol, atol=atol, err_msg="norms of the examples"
    )
    close(result.grads, expected, rtol, terms)
    np.testing.assert_allclose(
        result.losses, losses, rtol=rtol, atol=10 * rtol, err_msg="losses of the examples"
    )
