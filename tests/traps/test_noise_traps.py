"""Traps 9 to 13: noise that is too small, too coarse, or known."""

import keras
import numpy as np
import pytest
from scipy import stats

import keras_dp
from keras_dp import noise
from keras_dp.optimizers import DPSGD
from tests.traps.common import L, data, flat, private, released


def noise_of(policy=None, microbatch_size=None, batch_size=40, updates=1, seed=None, units=600):
    """Return the changes that updates make when all data are zero: noise alone."""
    x = np.zeros((40, 4), "float32")
    y = np.zeros((40, units), "float32")
    layer = L.Dense(units, dtype=policy, kernel_initializer="zeros")
    model = private(
        layers=[layer],
        noise_multiplier=2.0,
        seed=seed,
        sampling="full_batch",
        microbatch_size=microbatch_size,
    )
    found = []
    for _ in range(updates):
        before = flat(model)
        model.fit(x, y, batch_size=40, steps_per_epoch=1, verbose=0)
        found.append(before - flat(model))
    return np.array(found)


def too_small_or_large(sample, deviation):
    tail = stats.chi2.sf(np.sum((sample / deviation) ** 2), sample.size)
    return not 1e-9 < tail < 1 - 1e-9


def test_09_noise_is_float32_under_a_low_precision_policy():
    drawn = np.asarray(
        noise.add_noise([np.zeros(1 << 15, "float16")], noise.noise_key(None, 0), 1.0)[0]
    )
    assert drawn.dtype == np.float32
    assert len(np.unique(drawn)) > 32_000
    assert np.abs(drawn).max() > 3.5
    found = noise_of(policy="mixed_bfloat16")[0]
    assert len(np.unique(found)) > 0.99 * found.size


def test_10_no_two_variables_updates_fits_or_runs_share_noise():
    found = noise_of(updates=3)
    kernel, bias = found[:, :2400], found[:, 2400:]
    pairs = [(found[0], found[1]), (found[1], found[2]), (kernel[0][:600], bias[0])]
    pairs.append((noise_of()[0], noise_of()[0]))
    for one, other in pairs:
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.3  # of 600 numbers at least
    seeded = noise_of(updates=2, seed=7)
    assert abs(np.corrcoef(seeded[0], seeded[1])[0, 1]) < 0.2


@pytest.mark.parametrize("microbatch_size", [40, 5])
def test_11_noise_is_added_once_an_update_whatever_the_microbatches(microbatch_size):
    """Clip norm 1, noise multiplier 2, divided by the batch of 40."""
    found = noise_of(microbatch_size=microbatch_size)
    assert not too_small_or_large(found, 2.0 / 40)
    assert too_small_or_large(found, 2.0 / 40 * 2 / 3)
    assert too_small_or_large(found, 2.0 / 40 * 3 / 2)


def test_12_global_seeds_do_not_make_noise_predictable_and_no_key_is_in_a_saved_file(tmp_path):
    draws = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        np.random.seed(0)
        draws.append(noise_of()[0])
    assert not np.array_equal(draws[0], draws[1])
    model = private(noise_multiplier=1.0, seed=918273645, sampling="full_batch")
    released(model, *data())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.seed is None
    assert b"918273645" not in (tmp_path / "model.keras").read_bytes()
    statement = str(loaded.privacy_statement(delta=1e-3, group_sizes=()))
    assert "noise or sampling was seeded" in statement


def test_13_the_clip_sees_gradients_without_loss_scale():
    x, y = data(scale=0.01)
    gradients = []
    for policy in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(0)
        layer = L.Dense(2, dtype=policy)
        model = private(layers=[layer], clip_norm=1.0, sampling="full_batch")
        gradients.append(released(model, x, y))
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=0.02, atol=1e-4)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="LossScaleOptimizer"):
        keras_dp.optimizers.DPOptimizer(scaled, noise_multiplier=1.0)
    assert DPSGD(0.1, noise_multiplier=1.0).loss_scale_factor is None
