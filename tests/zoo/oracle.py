"""The loop over single examples, and the comparison of the clipped sum with it."""

import time
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp
import numpy as np

from keras_dp import clipping

RTOL = 1e-5
# A model is compiled twice and run a handful of times, so XLA should compile fast rather than well:
# this takes a third of the time. At level 0 XLA computes the same value differently in two places,
# then no entry of a tensor equals its maximum, and the gradient of a max is infinite.
FAST = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}


def supported(options):
    """Return the compiler options that this JAX knows."""

    def known(name, value):
        try:
            jax.jit(lambda x: x, compiler_options={name: value})(0.0)
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in options.items() if known(name, value)}


COMPILER_OPTIONS = supported(FAST)


@dataclass
class Errors:
    """How far the clipped sum is from the loop: largest relative errors, and seconds taken."""

    norms: float
    grads: float
    seconds: float

    def as_dict(self):
        return asdict(self)


def one_example_loss(drawn):
    """Make a pure `loss(params, example)` of the model: it sees a batch of one example."""
    model, losses = drawn.model, drawn.loss
    state = [v.value for v in model.non_trainable_variables]
    seeds = [v.name == "seed_generator_state" for v in model.non_trainable_variables]

    def loss(params, example):
        x, y = jax.tree.map(lambda a: a[None], (example["x"], example["y"]))
        # Random numbers of its own for each example, as private training draws them.
        own = [
            v + example["position"].astype(v.dtype) if is_seed else v
            for v, is_seed in zip(state, seeds, strict=True)
        ]
        outputs, _, added = model.stateless_call(params, own, x, training=True, return_losses=True)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        terms = [f(a, b) for f, a, b in zip(losses, y, outputs, strict=True)]
        return sum([*terms, *(jnp.sum(term) for term in added)], start=jnp.zeros(()))

    return loss


def batch_of(drawn):
    size = len(jax.tree.leaves(drawn.y)[0])
    return {"x": drawn.x, "y": drawn.y, "position": np.arange(size, dtype="uint32")}


def loop(loss, params, batch):
    """Return every example's loss and gradient, one example at a time."""
    gradient = jax.jit(jax.value_and_grad(loss), compiler_options=COMPILER_OPTIONS)
    losses, grads = [], []
    for i in range(len(batch["position"])):
        value, grad = gradient(params, jax.tree.map(lambda a, i=i: a[i], batch))
        losses.append(float(value))
        grads.append([np.asarray(leaf, np.float64) for leaf in grad])
    return np.array(losses), grads


def check(drawn, rtol=RTOL, method="auto"):
    """Compare the clipped sum with the loop: norms, losses and every leaf of the sum.

    Half of the examples are clipped, and one that is masked must not count.
    """
    loss, batch = one_example_loss(drawn), batch_of(drawn)
    params = [v.value for v in drawn.model.trainable_variables]
    losses, grads = loop(loss, params, batch)
    norms = np.array([np.sqrt(sum(np.sum(leaf**2) for leaf in grad)) for grad in grads])
    mask = np.ones(len(norms), "float32")
    mask[len(norms) // 2] = 0
    clip_norm = float(np.median(norms[mask > 0]))
    assert np.isfinite(norms).all() and norms.min() > 0, (
        f"the zoo's own fault, norms {norms} leave nothing to compare: {drawn.description}"
    )
    factors = mask * np.minimum(1.0, clip_norm / norms)
    expected = [
        sum(f * leaf for f, leaf in zip(factors, leaves, strict=True))
        for leaves in zip(*grads, strict=True)
    ]
    start = time.perf_counter()
    clip = clipping.clipped_sum(loss, clip_norm=clip_norm, method=method)
    result = jax.jit(clip, compiler_options=COMPILER_OPTIONS)(params, batch, mask)
    jax.block_until_ready(result.grads)
    seconds = time.perf_counter() - start
    _close(drawn, "losses", result.losses, losses, rtol, rtol)
    _close(drawn, "norms", result.norms, norms, rtol, 0.0)
    scale = max(np.abs(leaf).max() for leaf in expected)
    paths = [v.path for v in drawn.model.trainable_variables]
    for path, actual, leaf in zip(paths, result.grads, expected, strict=True):
        _close(drawn, f"gradient of {path} {leaf.shape}", actual, leaf, rtol, rtol * scale)
    return Errors(
        float(np.max(np.abs(np.asarray(result.norms, np.float64) - norms) / norms)),
        float(max(_distance(a, e) for a, e in zip(result.grads, expected, strict=True)) / scale),
        seconds,
    )


def _distance(actual, expected):
    return np.abs(np.asarray(actual, np.float64) - expected).max(initial=0.0)


def _close(drawn, what, actual, expected, rtol, atol):
    np.testing.assert_allclose(
        np.asarray(actual, np.float64),
        expected,
        rtol=rtol,
        atol=atol,
        err_msg=f"{what} of the model with {drawn.description}",
    )
