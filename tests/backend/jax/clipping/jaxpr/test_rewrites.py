"""Faster forms are equal to JAX's own operations, derivatives included."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dp import clipping
from keras_dp.backend.jax.clipping.jaxpr import rewrites
from keras_dp.backend.jax.clipping.jaxpr.program import make_program


def depthwise(strides, dilations, padding, rank, channels):
    numbers = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC")}[rank]

    def operation(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            strides[:rank],
            padding[:rank],
            rhs_dilation=dilations[:rank],
            dimension_numbers=numbers,
            feature_group_count=channels,
        )

    return operation


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(operation, x, kernel, g):
    value, back = jax.vjp(operation, x, kernel)
    return value, *back(g)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("bfloat16", 2e-2)])
def test_other_precisions_stay_equal(dtype, tolerance):
    rng = np.random.default_rng(0)
    operation = depthwise((2, 1), (1, 1), ((1, 1), (0, 2)), 2, 3)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, 9, 8, 3)), dtype)
        kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 3)), dtype)
        expected, back = jax.vjp(operation, x, kernel)
        actual, fast_back = jax.vjp(clipping.rewrite(operation), x, kernel)
        g = jnp.cos(jnp.arange(expected.size)).reshape(expected.shape).astype(dtype)
        pairs_of_results = [(actual, expected), *zip(fast_back(g), back(g), strict=True)]
    for found, wanted in pairs_of_results:
        assert found.dtype == wanted.dtype
        found, wanted = (np.asarray(a, np.float64) for a in (found, wanted))
        np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max())


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.tuples(*[st.tuples(st.integers(-1, 2), st.integers(0, 3))] * 2)


@settings(deadline=None, max_examples=25)
@given(
    strides=pairs,
    dilations=pairs,
    padding=paddings,
    kernel=pairs,
    rank=st.integers(1, 2),
    multiplier=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_a_depthwise_convolution_and_its_gradients_stay_equal(
    strides, dilations, padding, kernel, rank, multiplier, seed
):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, *(9, 8)[:rank], 3)).astype("float32")
    weights = rng.normal(size=(*kernel[:rank], 1, 3 * multiplier)).astype("float32")
    operation = depthwise(strides, dilations, padding, rank, 3)
    program, _ = make_program(operation, x, weights)
    assert program.equations[-1].form is not None, "nothing was rewritten, so nothing is tested"
    g = rng.normal(size=jax.eval_shape(operation, x, weights).shape).astype("float32")
    actual = with_gradients(clipping.rewrite(operation), x, weights, g)
    expected = with_gradients(operation, x, weights, g)
    jax.tree.map(close, actual, expected)


def first_convolution(strides, dilations, padding, numbers=("NHWC", "HWIO", "NHWC")):
    def operation(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, rhs_dilation=dilations, dimension_numbers=numbers
        )

    return operation


@settings(deadline=None, max_examples=8)
@given(
    strides=st.tuples(st.integers(1, 3), st.just(2)),
    dilations=pairs,
    padding=paddings,
    kernel=st.tuples(st.integers(1, 3), st.integers(2, 3)),
    channels=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_a_strided_convolution_of_images_and_its_gradients_stay_equal(
    strides, dilations, padding, kernel, channels, seed
):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 9, 8, channels)).astype("float32")
    weights = rng.normal(size=(*kernel, channels, 5)).astype("float32")
    operation = first_convolution(strides, dilations, padding)
    program, _ = make_program(operation, x, weights)
    assert program.equations[-1].form is not None, "nothing was rewritten, so nothing is tested"
    expected, back = jax.vjp(operation, x, weights)
    actual, fast_back = jax.vjp(clipping.rewrite(operation), x, weights)
    close(actual, expected)
    g = rng.normal(size=expected.shape).astype("float32")
    jax.tree.map(close, fast_back(g), back(g))


@pytest.mark.parametrize(
    ("strides", "shape", "kernel"),
    [((1, 1), (9, 9, 3), (3, 3)), ((2, 2), (9, 9, 8), (3, 3)), ((2, 2), (9, 9, 3), (7, 7))],
    ids=["no stride", "many channels", "large kernel"],
)
def test_convolutions_that_the_platform_does_well_are_left_to_it(strides, shape, kernel):
    operation = first_convolution(strides, (1, 1), ((3, 3), (3, 3)))
    x, weights = jnp.ones((1, *shape)), jnp.ones((*kernel, shape[-1], 2))
    program, _ = make_program(operation, x, weights)
    assert all(equation.form is None for equation in program.equations)


def test_ordinary_convolutions_are_left_alone():
    def operation(x, kernel):
        return jax.lax.conv(x, kernel, (1, 1), "SAME")

    program, _ = make_program(operation, jnp.ones((1, 3, 5, 5)), jnp.ones((4, 3, 3, 3)))
    assert all(equation.form is None for equation in program.equations)


def test_other_platforms_keep_their_own_form(monkeypatch):
    monkeypatch.setattr(rewrites.jax, "default_backend", lambda: "tpu")
    operation = depthwise((1, 1), (1, 1), ((1, 1), (1, 1)), 2, 3)
    program, _ = make_program(operation, jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 1, 3)))
    assert all(equation.form is None for equation in program.equations)


def test_a_frozen_keras_backbone_gives_the_same_features():
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Conv2D(8, 3, strides=2),
            keras.layers.DepthwiseConv2D(3, strides=2, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.SeparableConv2D(4, 3),
        ]
    )
    weights = (
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
    )
    x = np.random.default_rng(0).normal(size=(4, 12, 12, 3)).astype("float32")
    features, _ = jax.jit(clipping.rewrite(model.stateless_call))(*weights, x)
    close(features, model(x))
