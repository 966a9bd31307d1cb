"""The noise that is released: its law, once for an update, and never the same twice."""

import itertools
import math

import keras
import numpy as np
import pytest

from keras_dp import PrivateMetrics, clipping, noise, step
from keras_dp.plan import LATTICE, NOISES
from tests.contract.released import Noise, fits, has_law, related

RULES = sorted(clipping.CLIP_RULES)


@pytest.mark.parametrize(
    ("kind", "microbatch_size"), [("gaussian", 64), ("gaussian", 4), ("discrete_gaussian", 4)]
)
def test_an_update_releases_noise_of_the_promised_scale_once(kind, microbatch_size):
    """Standard deviation noise_multiplier * clip_norm on the sum, whatever the microbatches."""
    made = Noise(noise=kind, compiling={"microbatch_size": microbatch_size})
    updates = [made.update() for _ in range(2)]
    (release,) = made.model.ledger.releases
    assert release.updates == 2
    assert release.plan.noise_stddev == pytest.approx(1.0, rel=1e-4)
    samples = list(itertools.chain(*updates))
    assert all(has_law(sample, release.plan.noise_stddev) for sample in samples)
    for one, other in itertools.combinations(samples, 2):
        assert not related(one, other)


def test_discrete_noise_is_on_its_lattice_and_float32_noise_is_not():
    """Small numbers tell: large ones have no finer bits in float32."""
    found = {}
    for kind in NOISES:
        (sample, _) = Noise(noise=kind, seed=1).update()
        small = sample[np.abs(sample) < 0.2].astype(np.float64)
        points = small * LATTICE  # a power of two, as the step is
        found[kind] = np.mean(points == np.round(points))
    assert found["discrete_gaussian"] == 1
    assert found["gaussian"] < 0.9


def test_without_a_seed_noise_differs_whatever_global_seeds_are_set():
    """Through `fit`, and key by key."""
    made, samples = Noise(), []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        samples.append(made.update()[0])
    assert not related(*samples)
    keys = set()
    for _ in range(50):
        keras.utils.set_random_seed(0)
        keys.add(noise.noise_key(None, 0).tobytes())
    assert len(keys) == 50


def test_a_seed_repeats_the_noise_of_each_update_and_another_does_not():
    made, again, other = (Noise(seed=seed) for seed in (4, 4, 5))
    first, second = made.update()[0], made.update()[0]
    np.testing.assert_array_equal(again.update()[0], first)
    np.testing.assert_array_equal(again.update()[0], second)
    assert not related(first, second)
    assert not related(first, other.update()[0])


def privatized(rule, metrics=None, updates=1, size=20_000):
    """What `step.privatize` makes of sums of zeros, for a noise multiplier of 7 on the sum."""
    released = []
    for update in range(updates):
        key = noise.noise_key(3, update)
        mechanism = step.Mechanism(np.float32(0.5), np.float32(7), np.float32(64), key)
        sums = [keras.ops.zeros(size)]
        sums += [keras.ops.convert_to_tensor(12.5)] * isinstance(rule, clipping.AdaptiveQuantile)
        sums += [keras.ops.zeros(len(metrics.names))] if metrics else []
        found = step.privatize(rule, sums, mechanism, 0.5, metrics)
        released.append(
            [
                keras.ops.convert_to_numpy(v)
                for v in (found[0].values[0], *found[1:])
                if v is not None
            ]
        )
    return [np.array(parts) for parts in zip(*released, strict=True)]


@pytest.mark.parametrize("rule", RULES)
def test_noise_follows_the_clip_rules_sensitivity(rule):
    (sample, *_) = privatized(clipping.resolve(rule))
    sensitivity = 1.0 if rule in ("unit_norm", "automatic") else 0.5
    assert has_law(sample * 64, 7 * sensitivity)


def test_a_noisy_count_and_private_metrics_have_noise_of_their_own_scale():
    metrics = PrivateMetrics(noise_stddev=0.7)
    _, count, shares = privatized(clipping.AdaptiveQuantile(), metrics, 400, size=2)
    assert has_law(count - 12.5, 64 / 20)
    assert has_law(shares * 64, 0.7)


def test_a_noisy_count_raises_the_noise_on_the_sum():
    """Andrew et al. 2021, theorem 1: sum and count together cost the noise multiplier."""
    made = Noise(clipping="adaptive", noise_multiplier=0.75)
    assert has_law(made.update()[0], 0.5 / math.sqrt(0.75**-2 - (2 * 16 / 20) ** -2))
    assert made.model.ledger.releases[0].plan.noise_multiplier == 0.75


def test_private_metrics_are_noisy_means_and_raise_the_noise_on_the_sum():
    """Every loss is in the middle of its bounds, so the logs show the noise alone."""
    shown = PrivateMetrics(noise_stddev=1.2)
    compiling = {
        "private_metrics": shown,
        "sampling": "full_batch",
        "loss": lambda y_true, y_pred: 0.0 * y_pred + 2.5,
    }
    made = Noise(units=1000, compiling=compiling)
    made.size = made.batch_size
    assert has_law(made.update()[0], 0.5 / math.sqrt(2.0**-2 - (2 * 1.2) ** -2))
    x, y = np.ones((made.size, 4), "float32"), np.zeros((made.size, 1))
    history = made.model.fit(x, y, epochs=400, verbose=0).history
    assert has_law(np.array(history["loss"]) - 2.5, 5 * 1.2 / made.size)


def test_the_law_is_told_from_two_thirds_and_three_halves_of_its_scale():
    """Of the test itself, at the smallest sample that it is used on."""
    sample = np.random.default_rng(0).normal(size=400)
    assert fits(sample, 1.0)
    assert not any(fits(sample, wrong) for wrong in (2 / 3, 3 / 2))
