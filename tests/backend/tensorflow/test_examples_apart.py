"""What one example can and cannot do to the sums: padding, bad rows, rules, randomness, views."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_dp import backend
from keras_dp.clip_rules import CLIP_RULES
from tests.backend.tensorflow.models import MODELS, SIZE, SPARSE, draw, labels, mlp
from tests.backend.tensorflow.oracle import build, check, clipped, looped, private, values

L = keras.layers


@pytest.mark.parametrize("name", CLIP_RULES)
def test_every_clip_rule_gives_what_the_loop_over_examples_gives(name):
    model, loss, rows = mlp()
    model = private(model, loss, clipping=name)
    build(model, rows)
    check(model, rows)


@pytest.mark.parametrize("name", ["mlp", "conv many channels", "tied", "lstm", "derived"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_padding_and_rows_that_are_not_finite_add_nothing(name, bad):
    model, loss, rows = MODELS[name]()
    model = private(model, loss)
    build(model, rows)
    alone = clipped(model, rows, np.array([True] * 3 + [False] * 2), 0.1)
    x, y, _ = rows
    weight = np.array([1, 1, 1, bad, bad], np.float32)
    if x.dtype == np.float32:
        x = np.concatenate([x[:3], np.full_like(x[3:], bad)])
    padded = clipped(model, (x, y, weight), np.array([True] * 4 + [False]), 0.1)
    for one, other in zip(alone.grads, padded.grads, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["conv same", "attention", "tied", "bidirectional", "several"])
def test_an_example_moves_no_other_example_and_the_sum_by_at_most_the_clip_norm(name):
    model, loss, rows = MODELS[name]()
    model = private(model, loss)
    build(model, rows)
    reversed_last = tf.nest.map_structure(
        lambda a: None if a is None else np.concatenate([a[:-1], a[:1]]), rows
    )
    one, other = (clipped(model, each, None, 0.01) for each in (rows, reversed_last))
    np.testing.assert_array_equal(one.norms[:-1], other.norms[:-1])
    np.testing.assert_array_equal(one.losses[:-1], other.losses[:-1])
    moved = sum(np.sum((a - b).numpy() ** 2) for a, b in zip(one.grads, other.grads, strict=True))
    assert 0 < np.sqrt(moved) <= 2 * 0.01 * (1 + 1e-5)


class Ones(L.Layer):
    """Ones, whatever comes."""

    def call(self, inputs):
        return ops.ones_like(inputs)


def _dropout_masks(offset, advance=False):
    """Which of the 64 units each example's dropout keeps, seen in its gradient of a bias."""
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((64,)), Ones(), L.Dropout(0.5, seed=7)])
    model = private(model, "mse", metrics=["mae"])
    rows = (draw(64), draw(64), None)
    traced = build(model, rows)
    params, state, metrics = values(model)
    if advance:
        state = traced.advance(params, state)
    x, y, weight = rows
    position = tf.range(offset, offset + SIZE)
    examples = {"x": x, "y": y, "sample_weight": weight, "position": position}
    valid = tf.ones((SIZE,), tf.bool)
    found = backend.clip_examples(model, params, state, metrics, examples, valid, 1.0)
    return found.aux["y_pred"].numpy() != 0


def test_every_example_has_a_dropout_mask_of_its_own_by_its_position():
    masks = _dropout_masks(0)
    assert len(np.unique(masks, axis=0)) == SIZE
    assert 0.35 < masks.mean() < 0.65
    np.testing.assert_array_equal(masks[2:], _dropout_masks(2)[:-2])


def test_dropout_masks_are_others_after_the_state_has_advanced():
    assert (_dropout_masks(0) != _dropout_masks(0, advance=True)).mean() > 0.3


def test_a_batch_normalization_that_trains_is_known_to_store_data():
    model = keras.Sequential(
        [keras.Input((3,)), L.Dense(2), L.BatchNormalization(), L.Dropout(0.5)]
    )
    model = private(model, "mse")
    traced = build(model, (draw(3), draw(2), None))
    names = [model.non_trainable_variables[i].name for i in traced.data_dependent]
    assert names == ["moving_mean", "moving_variance"]


def test_the_clipped_gradient_of_a_float16_model_is_near_that_of_the_same_model_in_float32():
    found = []
    for policy in ("mixed_float16", "float32"):
        keras.utils.set_random_seed(1)
        keras.config.set_dtype_policy(policy)
        try:
            model = keras.Sequential([keras.Input((7,)), L.Dense(5, "tanh"), L.Dense(3)])
        finally:
            keras.config.set_dtype_policy("float32")
        model = private(model, SPARSE)
        rows = (draw(7), labels(), None)
        build(model, rows)
        found.append(clipped(model, rows, None, 0.5))
    for half, single in zip(found[0].grads, found[1].grads, strict=True):
        np.testing.assert_allclose(half, single, atol=2e-3)


def test_an_example_that_overflows_float16_is_tried_again_and_moves_no_other():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((7,)), L.Dense(5), L.Dense(1)])
    finally:
        keras.config.set_dtype_policy("float32")
    model = private(model, "mse")
    x, y = draw(7), draw(1)
    build(model, (x, y, None))
    far = np.concatenate([y[:-1], np.full((1, 1), 200.0, np.float32)])
    near, other = (clipped(model, (x, each, None), None, 0.5) for each in (y, far))
    assert np.isfinite(other.norms).all()
    assert other.norms[-1] > 200
    np.testing.assert_array_equal(near.norms[:-1], other.norms[:-1])


def test_the_views_of_an_example_are_averaged_before_its_gradient():
    model, loss, (x, y, _) = MODELS["conv many channels"]()
    model = private(model, loss, augmentation=L.RandomFlip(seed=1), augmentations=2)
    views = np.stack([x, x[:, ::-1]], 1)
    model._symbolic_build(data_batch=(x[:2], y[:2], None))
    backend.trace_example(model, (views[:2], y[:2], None))
    found = clipped(model, (views, y, None), None, 0.2)
    twice = [looped(model, (views[:, i], y, None), np.inf) for i in range(2)]
    np.testing.assert_allclose(found.losses, (twice[0][2] + twice[1][2]) / 2, rtol=1e-5)
    sums = [np.zeros(v.shape) for v in model.trainable_variables]
    for i in range(SIZE):
        pair = [_gradient(model, views[i, j], y[i]) for j in range(2)]
        mean = [(a + b) / 2 for a, b in zip(*pair, strict=True)]
        norm = np.sqrt(sum(np.sum(g * g) for g in mean))
        np.testing.assert_allclose(found.norms[i], norm, rtol=1e-4)
        for total, g in zip(sums, mean, strict=True):
            total += g * min(1, 0.2 / norm)
    for total, expected in zip(found.grads, sums, strict=True):
        np.testing.assert_allclose(total, expected, atol=1e-5)


def _gradient(model, x, y):
    from tests.backend.tensorflow.oracle import one_gradient

    return one_gradient(model, (x, y, None))[0]
