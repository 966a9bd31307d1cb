"""The attack on what numbers can be succeeds on float32 noise and fails on discrete noise."""

import functools
import math

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import noise
from keras_dp.plan import LATTICE
from tests.noise import attack

CAN_GIVE = {"gaussian": attack.float32_can_give, "discrete_gaussian": attack.discrete_can_give}
STDDEV = 1.3
NEAR = [(0.0, 1.0), (0.0, 1e-4), (0.7310586, 0.7310587), (-2.25, 1.1)]
FAR = (17.3, 16.4)  # thirteen standard deviations from 0, where float32 has fewer digits left


@functools.partial(jax.jit, static_argnums=(3, 4))
def _noisy(total, stddev, key, kind, count):
    return noise.add_noise([jnp.full(count, total)], key, stddev, kind)[0]


def released(total, kind, count=20_000):
    """Numbers that are published: one sum with noise, many times, compiled as in training."""
    key = noise.noise_key(11, 0, kind)
    return np.asarray(_noisy(jnp.float32(total), jnp.float32(STDDEV), key, kind, count))


def ruled_out(kind, total, other):
    """Share of the released numbers that show that the sum was not `other`."""
    return 1 - CAN_GIVE[kind](released(total, kind), other, STDDEV).mean()


def test_float32_noise_has_eight_million_values_and_none_beyond_five_and_a_half():
    found = attack.float32_sums(0.0, 1.0)
    assert len(np.unique(found)) == 2**23
    assert found[0] == pytest.approx(-5.42, abs=0.005)
    assert found[-1] == pytest.approx(5.22, abs=0.005)
    assert np.isin(
        np.asarray(_noisy(0.0, 1.0, noise.noise_key(1, 0), "gaussian", 10**6)), found
    ).all()


@pytest.mark.parametrize("kind", CAN_GIVE)
@pytest.mark.parametrize("pair", [*NEAR, FAR])
def test_the_true_sum_is_never_ruled_out(kind, pair):
    assert [ruled_out(kind, total, total) for total in pair] == [0, 0]


@pytest.mark.parametrize("pair", NEAR)
def test_a_number_with_float32_noise_nearly_always_rules_the_other_sum_out(pair):
    assert ruled_out("gaussian", *pair) > 0.8
    assert ruled_out("gaussian", *pair[::-1]) > 0.8


def test_even_where_float32_has_few_digits_left_one_number_in_twenty_does():
    assert ruled_out("gaussian", *FAR) > 0.05


@pytest.mark.parametrize("pair", [*NEAR, FAR])
def test_no_number_with_discrete_noise_rules_the_other_sum_out(pair):
    assert ruled_out("discrete_gaussian", *pair) == 0
    assert ruled_out("discrete_gaussian", *pair[::-1]) == 0


def sums_of_one_update(x, kind, noise_multiplier):
    """What an attacker reads off weights that began at 0: the sum of one full, noisy batch.

    The loss is the prediction itself, so an example's gradient is the example. Learning rate 1 and
    64 examples: the weights are the sum divided by -64, without rounding.
    """
    inputs = keras.Input((x.shape[1],))
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras_dp.DPModel(inputs, layer(inputs))
    model.compile(
        keras_dp.optimizers.DPSGD(
            1.0, clip_norm=1.0, noise_multiplier=noise_multiplier, noise=kind, seed=1
        ),
        loss=lambda _, prediction: prediction,
        sampling="full_batch",
    )
    model.fit(x, np.zeros((len(x), 1)), verbose=0)
    return -64 * np.asarray(layer.kernel)[:, 0]


@pytest.mark.parametrize("kind", CAN_GIVE)
def test_published_weights_give_an_example_away_with_float32_noise_only(kind):
    """The attacker knows 63 examples and asks whether the last took part in the one update."""
    x = np.random.default_rng(0).normal(size=(64, 40)).astype("float32")
    without = np.concatenate([x[:-1], np.zeros((1, 40), "float32")])
    sums = [sums_of_one_update(data, kind, 0.0) for data in (x, without)]
    seen = sums_of_one_update(x, kind, 1.0)
    stddev = 1 / (1 - math.sqrt(40) / LATTICE) if kind == "discrete_gaussian" else 1.0
    possible = [
        all(CAN_GIVE[kind](number, total, stddev) for number, total in zip(seen, s, strict=True))
        for s in sums
    ]
    assert possible == [True, kind == "discrete_gaussian"]
