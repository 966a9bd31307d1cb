"""Convolutions of data with kernels of weights, in every setting that JAX has."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from jax import lax

from tests.backend.jax.clipping.jaxpr.rules.checks import (
    agree,
    convolve,
    draws,
    layout,
    problem,
    wave,
)

SEEDS = st.integers(0, 2**31)


def check(seed, x_shape, kernel_shape, rank, **settings):
    """Compare for one image an example, in the layout with the channels last."""

    def loss(p, e):
        return wave(convolve(e["x"][None], p["k"], rank, **settings))

    params, batch = problem(seed, {"k": kernel_shape}, {"x": x_shape})
    agree(loss, params, batch)


@st.composite
def settings_of_an_axis(draw):
    """Draw kernel, size, stride, padding, and the two dilations such that there is an output."""
    kernel, size = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    stride, spread, dilation = (draw(st.integers(1, 3)) for _ in range(3))
    low, high = draw(st.integers(-1, 3)), draw(st.integers(-1, 3))
    length = (size - 1) * spread + 1
    assume(length + min(low, 0) + min(high, 0) >= 0)
    assume(length + low + high >= (kernel - 1) * dilation + 1)
    return kernel, size, stride, (low, high), spread, dilation


@pytest.mark.parametrize("rank", [1, 2, 3])
@draws(2)
@given(SEEDS, st.data())
def test_a_convolution_with_any_settings_agrees(rank, seed, data):
    axes = [data.draw(settings_of_an_axis()) for _ in range(rank)]
    kernel, size, stride, padding, spread, dilation = zip(*axes, strict=True)
    groups, left, right = (data.draw(st.integers(1, 3)) for _ in range(3))
    check(
        seed,
        (*size, groups * left),
        (*kernel, left, groups * right),
        rank,
        window_strides=stride,
        padding=padding,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        feature_group_count=groups,
    )


@pytest.mark.parametrize(
    ("stride", "spread", "dilation", "padding"),
    [
        (1, 1, 1, "SAME"),
        (2, 1, 1, "SAME"),
        (1, 1, 2, "SAME"),
        (1, 3, 1, [(2, 1), (0, 3)]),
        (2, 1, 2, [(3, 1), (1, 4)]),
        (1, 1, 1, [(-1, 2), (2, -1)]),
        (2, 3, 1, [(-1, 2), (-2, 1)]),
        (1, 1, 3, "VALID"),
    ],
)
@draws(1)
@given(seed=SEEDS, groups=st.sampled_from([2, 1]))
def test_a_named_setting_agrees(stride, spread, dilation, padding, groups, seed):
    check(
        seed,
        (7, 8, 2 * groups),
        (2, 3, 2, 3 * groups),
        2,
        window_strides=(stride, stride),
        padding=padding,
        lhs_dilation=(spread, spread) if spread > 1 else None,
        rhs_dilation=(dilation, dilation),
        feature_group_count=groups,
    )


@draws(2)
@given(SEEDS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_a_depthwise_convolution_with_a_multiplier_agrees(seed, channels, multiplier, stride):
    strides = {"window_strides": (stride, stride), "feature_group_count": channels}
    check(seed, (5, 4, channels), (3, 2, 1, channels * multiplier), 2, **strides)


@draws(1)
@given(SEEDS, st.integers(1, 3), st.sampled_from([(0, 0), (1, 2), (-1, 0)]), st.integers(1, 2))
@example(0, 2, (1, 2), 1)
def test_a_kernel_of_one_pixel_agrees(seed, stride, padding, groups):
    check(
        seed,
        (4, 5, 2 * groups),
        (1, 1, 2, 3 * groups),
        2,
        window_strides=(stride, 1),
        padding=[padding, (0, 1)],
        feature_group_count=groups,
    )


@draws(2)
@given(SEEDS, st.integers(1, 2))
def test_a_kernel_that_is_larger_than_the_image_agrees(seed, stride):
    check(seed, (3, 4, 2), (7, 5, 2, 2), 2, window_strides=(stride, stride))


@pytest.mark.parametrize(
    ("stride", "dilation", "padding"),
    [
        (1, 1, "SAME"),
        (1, 1, "VALID"),
        (2, 1, "SAME"),
        (1, 2, "SAME"),
        (2, 2, [(2, 3), (3, 1)]),
        (1, 1, [(-1, 2), (1, 0)]),
    ],
)
@draws(1)
@given(seed=SEEDS)
def test_many_channels_on_a_tiny_image_agree(stride, dilation, padding, seed):
    settings = {"window_strides": (stride, stride), "rhs_dilation": (dilation, dilation)}
    check(seed, (4, 3, 16), (3, 2, 16, 24), 2, padding=padding, **settings)


@pytest.mark.parametrize("order", ["last", "first", "turned"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@draws(1)
@given(SEEDS, st.data())
def test_every_layout_agrees(rank, order, seed, data):
    many = data.draw(st.booleans(), "many channels") or rank == 2
    strides = [data.draw(st.integers(1, 2)) for _ in range(rank)]
    channels = (24, 32) if many else (2, 3)
    numbers = layout(rank, order)
    sizes = dict(zip("DHW", (2, 4, 3), strict=True)) | {"N": 1, "C": channels[0]}
    kernels = dict(zip("DHW", (2, 1, 2), strict=True)) | {"I": channels[0], "O": channels[1]}
    x_shape, kernel_shape = (
        tuple(table[a] for a in spec)
        for table, spec in ((sizes, numbers[0]), (kernels, numbers[1]))
    )

    def loss(p, e):
        settings = {"window_strides": strides, "dimension_numbers": numbers}
        return wave(convolve(e["x"], p["k"], rank, **settings))

    agree(loss, *problem(seed, {"k": kernel_shape}, {"x": x_shape}))


@draws(2)
@given(SEEDS, st.integers(2, 3), st.sampled_from([(2, 2), (16, 24)]), st.integers(1, 2))
def test_several_images_in_one_example_agree(seed, images, channels, kernel):
    def loss(p, e):
        return wave(convolve(e["x"], p["k"], 2))

    shapes = {"x": (images, 3, 2, channels[0])}
    agree(loss, *problem(seed, {"k": (kernel, kernel, *channels)}, shapes))


@draws(2)
@given(SEEDS, st.integers(1, 2))
def test_groups_of_the_own_batch_agree(seed, stride):
    def loss(p, e):
        settings = {"window_strides": (stride, stride), "batch_group_count": 2}
        return wave(convolve(e["x"], p["k"], 2, **settings))

    agree(loss, *problem(seed, {"k": (2, 2, 3, 4)}, {"x": (4, 4, 3, 3)}))


@draws(2)
@given(SEEDS, st.integers(1, 2))
def test_an_image_of_weights_agrees(seed, stride):
    def loss(p, e):
        return wave(convolve(p["image"], e["k"], 2, window_strides=(stride, stride)))

    agree(loss, *problem(seed, {"image": (1, 4, 3, 2)}, {"k": (2, 2, 2, 3)}))


@pytest.mark.parametrize(("kernel", "width"), [(3, 2), (1, 2), (2, 24)])
@draws(1)
@given(SEEDS, st.integers(1, 2))
def test_a_kernel_that_is_used_twice_agrees(kernel, width, seed, stride):
    def loss(p, e):
        hidden = jnp.tanh(convolve(e["x"][None], p["k"], 2) / width)
        return wave(convolve(hidden, p["k"], 2, window_strides=(stride, stride)))

    agree(loss, *problem(seed, {"k": (kernel, kernel, width, width)}, {"x": (3, 4, width)}))


@draws(1)
@given(SEEDS)
def test_a_kernel_of_one_pixel_that_is_a_matrix_too_agrees(seed):
    def loss(p, e):
        hidden = jnp.tanh(convolve(e["x"][None], p["w"][None, None], 2))
        return wave(hidden) * wave(hidden[0] @ p["w"].T)

    agree(loss, *problem(seed, {"w": (3, 3)}, {"x": (2, 3, 3)}))


@draws(2)
@given(SEEDS, st.integers(1, 3))
def test_a_transposed_convolution_with_its_own_function_agrees(seed, stride):
    def loss(p, e):
        return wave(lax.conv_transpose(e["x"][None], p["k"], (stride, stride), "SAME"))

    agree(loss, *problem(seed, {"k": (3, 2, 2, 3)}, {"x": (3, 4, 2)}))


@draws(2)
@given(SEEDS, st.booleans())
def test_a_kernel_that_was_changed_before_agrees(seed, flipped):
    def loss(p, e):
        kernel = p["k"][::-1].transpose(2, 0, 1, 3) if flipped else p["k"].reshape(2, 3, 2, 2)
        return wave(convolve(e["x"][None], kernel, 2))

    agree(loss, *problem(seed, {"k": (3, 2, 2, 2)}, {"x": (3, 4, 2)}))


@draws(1)
@given(SEEDS)
def test_a_convolution_that_is_turned_round_agrees(seed):
    """The gradient of a convolution with respect to its image is one with a reversed kernel."""

    def loss(p, e):
        inner = jax.grad(lambda x: jnp.sum(jnp.tanh(convolve(x, p["k"], 2)) ** 2))
        return wave(inner(e["x"][None]))

    agree(loss, *problem(seed, {"k": (3, 2, 2, 3)}, {"x": (3, 3, 2)}))


@draws(2)
@given(SEEDS, st.sampled_from([(1, 3), (16, 24)]))
def test_a_convolution_in_bfloat16_agrees(seed, channels):
    def loss(p, e):
        x, kernel = e["x"].astype(jnp.bfloat16), p["k"].astype(jnp.bfloat16)
        return jnp.sum(convolve(x[None], kernel, 2).astype(jnp.float32) * e["y"])

    shapes = {"x": (3, 3, channels[0]), "y": (3, 3, channels[1])}
    agree(loss, *problem(seed, {"k": (2, 2, *channels)}, shapes), rtol=5e-2)


@draws(1)
@given(SEEDS)
def test_a_convolution_without_any_output_agrees(seed):
    def loss(p, e):
        found = convolve(e["x"][None], p["k"], 2, padding="VALID")
        return wave(found) + wave(e["x"] * p["s"])

    agree(loss, *problem(seed, {"k": (3, 3, 2, 2), "s": (2,)}, {"x": (2, 3, 2)}))
