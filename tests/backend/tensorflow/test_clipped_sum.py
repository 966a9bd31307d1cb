"""`clipped_sum` of any TensorFlow function, by both methods."""

import numpy as np
import pytest
import tensorflow as tf

from keras_dp import clipping
from keras_dp.clipping import METHODS


def _loss(params, example):
    """Two products, a weight used twice, one through a function of it, one without effect."""
    x = tf.tanh(tf.linalg.matvec(params["w"], example["x"]) + params["b"])
    y = tf.linalg.matvec(tf.sin(params["w"]), x) * params["s"]
    return tf.reduce_sum((y - example["y"]) ** 2), {"y": y}


def _data():
    draw = np.random.default_rng(5)
    params = {
        "b": draw.normal(size=3),
        "none": draw.normal(size=2),
        "s": draw.normal(size=()),
        "w": draw.normal(size=(3, 3)),
    }
    batch = {"x": draw.normal(size=(6, 3)), "y": draw.normal(size=(6, 3))}
    return tf.nest.map_structure(lambda a: tf.constant(a, tf.float32), (params, batch))


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_clipped_sum_is_that_of_a_loop_with_a_tape(method, eager):
    params, batch = _data()
    sums = {name: np.zeros(value.shape) for name, value in params.items()}
    norms = []
    for i in range(6):
        with tf.GradientTape() as tape:
            tape.watch(params)
            loss, _ = _loss(params, {name: rows[i] for name, rows in batch.items()})
        grads = tape.gradient(loss, params, unconnected_gradients="zero")
        norms.append(np.sqrt(sum(np.sum(g.numpy() ** 2) for g in grads.values())))
        for name in sums:
            sums[name] += min(1, 2.0 / norms[-1]) * grads[name].numpy() * (i != 4)
    compute = clipping.clipped_sum(_loss, clip_norm=2.0, method=method)
    mask = tf.constant([1, 1, 1, 1, 0, 1])
    found = (compute if eager else tf.function(compute))(params, batch, mask)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-5)
    assert found.aux["y"].shape == (6, 3)
    for name, expected in sums.items():
        np.testing.assert_allclose(found.grads[name], expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_without_examples_gives_zeros(method):
    params, batch = _data()
    empty = {name: rows[:0] for name, rows in batch.items()}
    found = clipping.clipped_sum(_loss, clip_norm=2.0, method=method)(params, empty)
    assert all(not np.any(total) for total in tf.nest.flatten(found.grads))
    assert found.norms.shape == found.losses.shape == (0,)


def test_a_scalar_weight_is_clipped_as_the_closed_formula_says():
    compute = clipping.clipped_sum(lambda p, x: 0.5 * (p - x) ** 2, clip_norm=2.5)
    assert float(compute(tf.constant(2.0), tf.constant([1.0, 4.0, 7.0])).grads) == -3.5


def test_bad_arguments_are_refused():
    params, batch = _data()
    compute = clipping.clipped_sum(_loss, clip_norm=1.0)
    with pytest.raises(ValueError, match="same leading batch axis"):
        compute(params, {**batch, "y": batch["y"][:2]})
    with pytest.raises(ValueError, match="floating point"):
        compute({**params, "s": tf.constant(1)}, batch)
    with pytest.raises(ValueError, match="`mask` must have shape"):
        compute(params, batch, tf.ones(3))
    with pytest.raises(ValueError, match="scalar loss"):
        clipping.clipped_sum(lambda p, x: x["y"] + p["b"], clip_norm=1.0)(params, batch)
    with pytest.raises(ValueError, match="one entry for each"):
        clipping.clipped_sum(_loss, clip_norm=1.0, layers=["a"])(params, batch)


def _of_weights_as_they_are(params, example):
    x = tf.tanh(tf.linalg.matvec(params["w"], example["x"]) + params["b"])
    return tf.reduce_sum((tf.linalg.matvec(params["w"], x) * params["s"] - example["y"]) ** 2)


@pytest.mark.parametrize("method", METHODS)
def test_clipped_sum_compiled_by_xla_is_that_of_the_graph(method):
    compute = clipping.clipped_sum(_of_weights_as_they_are, clip_norm=2.0, method=method)
    found, expected = (
        tf.function(compute, autograph=False, jit_compile=jit)(*_data()) for jit in (True, False)
    )
    np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-5)
    for name, total in expected.grads.items():
        np.testing.assert_allclose(found.grads[name], total, rtol=1e-4, atol=1e-5)


def test_what_clipping_cannot_follow_under_xla_is_refused():
    compiled = tf.function(
        clipping.clipped_sum(_loss, clip_norm=2.0), autograph=False, jit_compile=True
    )
    with pytest.raises(ValueError, match="`jit_compile=True` clipping knows only weights that"):
        compiled(*_data())
    np.testing.assert_array_less(0, clipping.clipped_sum(_loss, clip_norm=2.0)(*_data()).norms)
