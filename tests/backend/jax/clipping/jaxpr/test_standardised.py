"""Standardised kernels: the closed form equals gradients that are pulled back one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from keras_dp import clipping
from keras_dp.backend import Report
from keras_dp.backend.jax.clipping.jaxpr import assemble, report
from tests.backend.jax.clipping.jaxpr.rules.checks import convolve

pytestmark = pytest.mark.usefixtures("unoptimized")

OTHERS = (0, 1, 2)


def standardised(kernel, gain):
    """The weight standardisation of De et al. 2022, with a gain for each output channel."""
    mean = jnp.mean(kernel, OTHERS, keepdims=True)
    variance = jnp.var(kernel, OTHERS, keepdims=True)
    return (kernel - mean) * lax.rsqrt(variance * kernel[..., 0].size + 1e-4) * gain


def by_standard_deviation(kernel, gain):
    centred = kernel - jnp.mean(kernel, OTHERS)
    return centred / (1e-3 + jnp.std(kernel, OTHERS)) * jnp.exp(gain) + 0.3 * gain


def by_norm(kernel, gain):
    """Weight normalisation."""
    return kernel * (gain / jnp.sqrt(jnp.sum(kernel**2, OTHERS) + 1e-6))


def by_largest(kernel, gain):
    """Scaled by the largest entry: no sum of entries or squares, so not in closed form."""
    return kernel / jnp.max(jnp.abs(kernel), OTHERS) * gain


def by_input_channel(kernel, gain):
    """Scaled along the wrong axis: not in closed form."""
    return kernel / jnp.sqrt(jnp.sum(kernel**2, (0, 1, 3), keepdims=True)) * gain


def by_cubes(kernel, gain):
    return kernel / (1.0 + jnp.sum(jnp.abs(kernel) ** 3, OTHERS)) * gain


CLOSED = [standardised, by_standard_deviation, by_norm]
OPEN = [by_largest, by_input_channel, by_cubes]


def problem(transform, seed, *, channels=(32, 32), size=4, stride=1):
    rng = np.random.default_rng(seed)
    params = {
        "kernel": rng.normal(0.1, 1.0, size=(3, 3, *channels)).astype("float32"),
        "gain": rng.normal(size=channels[1]).astype("float32"),
        "bias": np.zeros(channels[1], "float32"),
    }
    x = rng.normal(size=(4, size, size, channels[0])).astype("float32")

    def loss(p, image):
        kernel = transform(p["kernel"], p["gain"])
        y = convolve(image[None], kernel, 2, window_strides=(stride, stride))
        return jnp.sum(jnp.tanh(0.1 * (y + p["bias"])) ** 2)

    return loss, params, x


def rules_of(loss, params, x):
    traced = assemble.trace(lambda p, e: (loss(p, e), None), params, x)
    found: Report = report.report(traced, ["bias", "gain", "kernel"])
    return {name: row.rule for row in found.rows for name in row.weights}


def agree(loss, params, x, clipping_rule="flat"):
    mask = np.array([1, 1, 0, 1])
    actual, expected = (
        jax.jit(clipping.clipped_sum(loss, clip_norm=0.5, clipping=clipping_rule, method=method))(
            params, x, mask
        )
        for method in ("auto", "vmap")
    )
    np.testing.assert_allclose(actual.norms, expected.norms, rtol=1e-5, atol=1e-12)
    for name in params:
        scale = np.abs(expected.grads[name]).max()
        np.testing.assert_allclose(
            actual.grads[name], expected.grads[name], rtol=1e-5, atol=2e-5 * scale
        )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("transform", CLOSED)
def test_the_closed_form_is_taken_and_equal(transform, stride):
    loss, params, x = problem(transform, stride, stride=stride, size=4 * stride)
    assert rules_of(loss, params, x)["kernel"] == "convolution, gram, standardised"
    agree(loss, params, x)


@pytest.mark.parametrize("transform", OPEN)
def test_what_is_no_standardisation_is_pulled_back(transform):
    loss, params, x = problem(transform, 0)
    assert rules_of(loss, params, x)["kernel"] == "convolution, gram, pulled back"
    agree(loss, params, x)


def test_kernel_and_gain_may_belong_to_different_layers():
    agree(*problem(standardised, 3), clipping_rule="per_layer")


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_kernel_without_spread_or_a_gain_of_zero_is_measured(value):
    loss, params, x = problem(standardised, 4)
    agree(loss, {**params, "kernel": np.full_like(params["kernel"], value)}, x)
    agree(loss, {**params, "gain": np.zeros_like(params["gain"])}, x)


def test_one_output_channel_is_measured():
    agree(*problem(standardised, 5, channels=(64, 1)))


def test_a_kernel_that_is_used_twice_is_pulled_back():
    loss, params, x = problem(standardised, 6)
    twice = lambda p, image: loss(p, image) + loss(p, image[::-1])  # noqa: E731
    assert "standardised" not in rules_of(twice, params, x)["kernel"]
    agree(twice, params, x)


def test_a_bad_example_adds_nothing():
    loss, params, x = problem(standardised, 7)
    clip = clipping.clipped_sum(loss, clip_norm=0.5)
    clean = clip(params, x, np.array([1, 0, 1, 1])).grads
    x[1, 0, 0, 0] = np.inf
    dirty = clip(params, x).grads
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), dirty, clean)
