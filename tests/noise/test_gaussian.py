"""The noise: its law, its precision, its keys. Each test of the law rejects wrong scales too."""

import contextlib

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from scipy import stats

import keras_dp
from keras_dp import keys, noise

# Some forty samples of unseeded noise in a run. bfloat16 weights have so few values that it acts on
# them as 1e-8.
SIGNIFICANCE = 1e-10


def fits(sample, stddev):
    """Whether a Kolmogorov-Smirnov test accepts the sample as centred normal."""
    return stats.kstest(np.ravel(sample) / stddev, "norm").pvalue > SIGNIFICANCE


def assert_normal(sample, stddev):
    assert sample.size >= 100_000
    assert fits(sample, stddev)
    assert not fits(sample, stddev * 2 / 3)
    assert not fits(sample, stddev * 3 / 2)


def draw(update=0, seed=0, shapes=((400, 300),), stddev=1.0):
    key = noise.noise_key(seed, update)
    return [np.asarray(n) for n in noise.add_noise([jnp.zeros(s) for s in shapes], key, stddev)]


def test_noise_is_normal_with_the_asked_standard_deviation():
    (sample,) = draw(stddev=0.37)
    assert_normal(sample, 0.37)
    assert sample.dtype == np.float32
    assert len(np.unique(sample)) > 0.9 * sample.size
    assert np.abs(sample).max() > 4 * 0.37  # a tail, which low precision would not have


def test_low_precision_sums_are_noised_in_float32():
    sums = [jnp.zeros((400, 300), jnp.bfloat16)]
    (noisy,) = noise.add_noise(sums, noise.noise_key(0, 0), 1.0)
    assert noisy.dtype == jnp.float32
    assert_normal(np.asarray(noisy), 1.0)


def test_noise_of_variables_updates_and_seeds_is_unrelated():
    shapes = ((300, 400), (300, 400))
    first, second = draw(shapes=shapes)
    (later,) = draw(update=1)
    (other_seed,) = draw(seed=1)
    for other in (second.ravel(), later.ravel(), other_seed.ravel()):
        correlation = np.corrcoef(first.ravel(), other)[0, 1]
        assert abs(correlation) < 5 / np.sqrt(first.size)


def test_a_seed_repeats_the_noise_bit_for_bit():
    np.testing.assert_array_equal(draw(seed=5)[0], draw(seed=5)[0])


def test_without_a_seed_every_key_is_new_whatever_global_seeds_are_set():
    found = set()
    for _ in range(50):
        keras.utils.set_random_seed(0)
        found.add(noise.noise_key(None, 0).tobytes())
    assert len(found) == 50


def test_keys_differ_by_purpose_and_update():
    made = {keys.update_key(7, purpose, update, 8) for purpose in "ab" for update in range(100)}
    assert len(made) == 200


@contextlib.contextmanager
def dtype_policy(name):
    """Set Keras' dtype policy for the layers made inside."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    yield
    keras.config.set_dtype_policy(before)


def released(policy, microbatch_size, on_device, monkeypatch, fits=3):
    """Weights that moved by pure noise: zero gradients, learning rate 1, several updates."""
    monkeypatch.setattr(keras_dp.backend, "loops_on_device", lambda: on_device)
    with dtype_policy(policy):
        inputs = keras.Input((4,))
        layer = keras.layers.Dense(40_000, use_bias=False, kernel_initializer="zeros")
        model = keras_dp.DPModel(inputs, layer(inputs))
    model.compile(
        keras_dp.optimizers.DPSGD(1.0, clip_norm=0.5, noise_multiplier=2.0),
        loss=lambda y_true, y_pred: 0.0 * y_pred,
        microbatch_size=microbatch_size,
    )
    samples = []
    for _ in range(fits):
        layer.kernel.assign(np.zeros((4, 40_000)))
        x = np.ones((50, 4), "float32")
        model.fit(x, np.zeros((50, 1)), batch_size=20, steps_per_epoch=1, verbose=0)
        samples.append(np.asarray(keras.ops.cast(layer.kernel, "float32")))
    return samples


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"])
@pytest.mark.parametrize(("microbatch_size", "on_device"), [(64, False), (4, False), (4, True)])
def test_an_update_releases_noise_of_the_promised_scale(
    policy, microbatch_size, on_device, monkeypatch
):
    """Standard deviation noise_multiplier * clip_norm / batch_size, whatever the microbatches."""
    first, second, third = released(policy, microbatch_size, on_device, monkeypatch)
    for sample in (first, second, third):
        assert_normal(sample, 2.0 * 0.5 / 20)
    for a, b in ((first, second), (second, third)):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 6 / np.sqrt(a.size)


def test_the_gradient_that_is_released_is_float32_under_a_bfloat16_policy(monkeypatch):
    seen = []
    original = keras_dp.optimizers.DPOptimizer.stateless_apply

    def spy(self, optimizer_variables, grads, trainable_variables):
        seen.extend(g.dtype for g in grads.values)
        return original(self, optimizer_variables, grads, trainable_variables)

    monkeypatch.setattr(keras_dp.optimizers.DPOptimizer, "stateless_apply", spy)
    released("bfloat16", 64, False, monkeypatch, fits=1)
    assert set(seen) == {jnp.dtype("float32")}


def test_noise_does_not_depend_on_the_number_of_devices_it_is_drawn_on():
    """The bits follow from key and shape alone, so any sharding gives the same noise."""
    whole = draw(shapes=((8, 16),))[0]
    with jax.threefry_partitionable(True):
        again = draw(shapes=((8, 16),))[0]
    np.testing.assert_array_equal(whole, again)
