"""Rematerialised regions: exact as without, and with less memory."""

import contextlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from jax import lax

import keras_dp
from keras_dp import clipping
from keras_dp.backend.jax.clipping.jaxpr.assemble import trace
from keras_dp.backend.jax.clipping.jaxpr.program import Region
from keras_dp.optimizers import DPSGD
from tests.backend.jax.clipping.jaxpr.rules.checks import QUICK, agree, convolve, problem, wave
from tests.kinds import crossentropy
from tests.zoo import oracle

L = keras.layers
SQUARE = {"a": (5, 5), "b": (5, 5), "c": (5,)}
VECTORS = {"x": (5,)}
ROWS = {"x": (4, 5)}


def two_blocks(p, e):
    h = jax.checkpoint(lambda w, x: jnp.sin(jnp.tanh(x @ w["a"]) @ w["b"]))(p, e["x"])
    return wave(jax.checkpoint(lambda c, h: jnp.tanh(h * c) + c)(p["c"], h))


def nested(p, e):
    def inner(h):
        return jnp.sin(h @ p["a"]) + p["c"]

    return wave(jax.checkpoint(lambda x: jax.checkpoint(inner)(jnp.tanh(x)) @ p["b"])(e["x"]))


def shared_weight(p, e):
    block = jax.checkpoint(lambda w, h: jnp.tanh(h @ w))
    return wave(block(p["a"], block(p["a"], e["x"])) * p["c"] + block(p["b"], e["x"]))


def in_a_scan(p, e):
    def turn(h, x):
        return jax.checkpoint(lambda h: jnp.tanh(h @ p["a"] + x))(h), h

    return wave(lax.scan(turn, p["c"], e["x"])[0] @ p["b"])


def scan_within(p, e):
    def turn(h, x):
        return jnp.tanh(h @ p["a"] + x), h

    def region(xs, start):
        return lax.scan(turn, start, xs)[0] @ p["b"]

    return wave(jax.checkpoint(region)(e["x"], p["c"]))


def several_results(p, e):
    """A result with a gradient, a weight, a number of another kind, and what nobody reads."""

    def region(x, c):
        order = jnp.argsort(x @ p["a"])
        return jnp.sin(x * c), 2 * c, order, x @ p["b"]

    h, weight, order, _ = jax.checkpoint(region)(e["x"], p["c"])
    return wave(h[order] * weight)


def other_layouts(p, e):
    def region(x, w):
        return jnp.tanh(x @ w["a"].T) @ (w["b"] / jnp.linalg.norm(w["b"])) + w["c"][::-1]

    return wave(jax.checkpoint(region)(e["x"], p))


def without_data(p, e):
    kernel = jax.checkpoint(lambda w: w / jnp.sqrt(jnp.mean(jnp.square(w))))(p["a"])
    return wave(jax.checkpoint(lambda x: jnp.sin(x) * 2)(e["x"] @ kernel @ p["b"]) + p["c"])


def image(p, e):
    def region(x, w):
        return jnp.tanh(convolve(x[None], w["k"], 2)[0] + w["c"])

    return wave(jax.checkpoint(region)(e["x"], {"k": p["k"], "c": p["c"]}) @ p["a"])


def tokens(p, e):
    ids = jnp.argmax(e["x"], axis=-1)
    return wave(jax.checkpoint(lambda t, c: jnp.sin(t[ids]) * c)(p["a"], p["c"]) @ p["b"])


IMAGE = {"k": (3, 3, 2, 5), "a": (5, 2), "c": (5,)}
CASES = {
    "two blocks": (two_blocks, SQUARE, VECTORS),
    "two blocks, positions": (two_blocks, SQUARE, ROWS),
    "nested": (nested, SQUARE, ROWS),
    "shared weight": (shared_weight, SQUARE, ROWS),
    "in a scan": (in_a_scan, SQUARE, ROWS),
    "a scan within": (scan_within, SQUARE, ROWS),
    "several results": (several_results, SQUARE, VECTORS),
    "other layouts": (other_layouts, SQUARE, ROWS),
    "without data": (without_data, SQUARE, ROWS),
    "image": (image, IMAGE, {"x": (4, 4, 2)}),
    "tokens": (tokens, SQUARE, ROWS),
}


@pytest.mark.parametrize("case", CASES)
def test_regions_agree_with_the_loop(case):
    loss, params, data = CASES[case]
    agree(loss, *problem(0, params, data, size=5))


def regions_of(loss, params, data):
    weights, batch = problem(0, params, data)
    found = trace(loss, weights, batch).analysis
    return [len(s.weights) for e, s in found.sites.items() if isinstance(e, Region)]


def test_a_region_is_a_site_unless_another_site_reads_its_weights():
    """Uses of one weight belong together: their gradients are added before the square."""
    assert regions_of(two_blocks, SQUARE, ROWS) == [2, 1]
    assert regions_of(nested, SQUARE, ROWS) == [3]
    assert regions_of(shared_weight, SQUARE, ROWS) == [1]
    assert regions_of(in_a_scan, SQUARE, ROWS) == []


@pytest.mark.parametrize("rule", ["flat", "per_layer"])
def test_a_bad_example_and_padding_add_nothing(rule):
    weights, batch = problem(1, SQUARE, ROWS, size=6)
    batch["x"][2] = np.nan
    mask = jnp.array([1, 0, 1, 1, 1, 1])
    found, slow = (
        jax.jit(clipping.clipped_sum(two_blocks, clip_norm=0.5, clipping=rule, method=method))(
            weights, batch, mask
        )
        for method in ("auto", "vmap")
    )
    for name in weights:
        np.testing.assert_allclose(found.grads[name], slow.grads[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.norms, slow.norms, rtol=1e-5)


@keras.saving.register_keras_serializable("regions")
class Block(L.Layer):
    """Several layers that Keras rematerialises as a whole."""

    def __init__(self, layers, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers

    def call(self, x):
        for layer in self.inner:
            x = layer(x)
        return x


def dense_block():
    return Block([L.Dense(32, activation="gelu") for _ in range(4)])


def convolutional_block():
    return Block([L.Conv2D(8, 3, padding="same", activation="gelu") for _ in range(4)])


BLOCKS = {"dense": ((32,), dense_block), "convolutional": ((8, 8, 8), convolutional_block)}


def deep(kind, remat, blocks):
    keras.utils.set_random_seed(0)
    shape, block = BLOCKS[kind]
    inputs = outputs = keras.Input(shape)
    with keras.RematScope("full") if remat else contextlib.nullcontext():
        for _ in range(blocks):
            outputs = block()(outputs)
    outputs = L.Dense(3)(L.Flatten()(outputs))
    return keras_dp.DPModel(inputs, outputs)


def data_for(kind, size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, *BLOCKS[kind][0])).astype("float32")
    return x, rng.integers(0, 3, size)


@pytest.mark.parametrize("kind", BLOCKS)
def test_layers_under_a_remat_scope_equal_the_loop(kind):
    x, y = data_for(kind, 5)
    model, loss = deep(kind, True, 2), crossentropy()
    oracle.check(SimpleNamespace(model=model, loss=[loss], x=x, y=[y], description=kind))


def test_training_under_a_remat_scope_ends_in_the_weights_of_training_without():
    x, y = data_for("dense", 16)
    ended = []
    for remat in (True, False):
        model = deep("dense", remat, 2)
        optimizer = DPSGD(0.5, clip_norm=0.5, noise_multiplier=0.5, seed=3)
        model.compile(optimizer, loss=crossentropy(), microbatch_size=5)
        before = model.get_weights()
        model.fit(x, y, batch_size=8, epochs=2, verbose=0)
        ended.append(model.get_weights())
    for ours, theirs, start in zip(*ended, before, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert np.abs(ours - start).max() > 1e-3


def temporary_memory(kind, remat):
    """Return the bytes that the compiled clipped sum of a batch needs besides its arguments."""
    size = 256
    x, y = data_for(kind, size)
    drawn = SimpleNamespace(model=deep(kind, remat, 4), loss=[crossentropy()], x=x, y=[y])
    clip = clipping.clipped_sum(oracle.one_example_loss(drawn), clip_norm=1.0)
    params = [v.value for v in drawn.model.trainable_variables]
    lowered = jax.jit(clip).lower(params, oracle.batch_of(drawn))
    return lowered.compile(QUICK).memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("kind", BLOCKS)
def test_rematerialised_blocks_take_less_memory(kind):
    """Four blocks of four layers: without, all that four hold; with, what one holds."""
    assert temporary_memory(kind, True) < 0.55 * temporary_memory(kind, False)
