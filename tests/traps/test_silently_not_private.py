"""Traps 1 to 8: training that looks private and is not."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import NotPrivateError
from keras_dp.optimizers import DPSGD
from tests.traps.common import L, data, flat, private, released


def test_01_a_model_that_was_fitted_and_made_private_trains_privately_from_then_on():
    x, y = data(scale=100.0)
    plain = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    plain.compile(keras.optimizers.SGD(1e-6), "mse")
    plain.fit(x, y, batch_size=40, verbose=0)
    model = keras_dp.make_private(plain)
    model.compile(DPSGD(1.0, clip_norm=0.1, noise_multiplier=0.0), "mse", sampling="full_batch")
    assert np.linalg.norm(released(model, x, y)) <= 0.1 + 1e-6
    assert model.ledger.updates == 1


def test_02_a_private_optimizer_in_a_plain_model_raises():
    x, y = data()
    model = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    model.compile(DPSGD(0.1, noise_multiplier=1.0), "mse")
    before = model.get_weights()
    with pytest.raises(NotPrivateError, match="DPModel"):
        model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])


@pytest.mark.parametrize("call", [{}, {"training": False}])
def test_03_batch_statistics_are_refused_unless_the_layer_is_frozen(call):
    x, y = data()
    inputs = keras.Input((4,))
    normalise = L.BatchNormalization(name="statistics")
    inner = keras.Model(inputs, normalise(inputs))
    model = keras_dp.DPModel(inputs, L.Dense(2)(inner(inputs, **call)))
    model.compile(DPSGD(0.1, noise_multiplier=1.0), "mse")
    with pytest.raises(NotPrivateError, match=r"'statistics'.*trainable = False"):
        model.fit(x, y, verbose=0)
    normalise.trainable = False
    model.compile(DPSGD(0.1, noise_multiplier=1.0), "mse")
    model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(normalise.moving_mean, np.zeros(4))


def test_04_a_loss_that_couples_examples_sees_one_example_at_a_time():
    """A contrastive loss would make every gradient depend on the whole batch."""

    def contrastive(y_true, y_pred):
        return keras.ops.mean(y_pred[:, None] * y_pred[None]) + 0 * keras.ops.mean(y_true)

    x, y = data()
    one, other = np.copy(x), np.copy(x)
    other[0] *= 50
    gradients = []
    for rows in (one, other):
        keras.utils.set_random_seed(0)
        model = private(loss=contrastive, sampling="full_batch", clip_norm=1.0)
        gradients.append(40 * released(model, rows, y))
    assert np.linalg.norm(gradients[0] - gradients[1]) <= 2 + 1e-4  # each of the two, at most 1

    weighted = private(loss="mse", sampling="full_batch", clip_norm=1.0)
    weights = np.ones(40, "float32")
    weights[0] = 1e6  # a weighted mean over the batch would silence all others
    assert np.linalg.norm(40 * released(weighted, x, y, sample_weight=weights)) > 2


def test_05_a_changed_clip_norm_scales_clip_and_noise_together():
    x, y = data(scale=100.0)
    for clip_norm in (0.1, 10.0):
        model = private(clip_norm=clip_norm, noise_multiplier=1e-3, sampling="full_batch")
        assert np.linalg.norm(released(model, x, y)) <= clip_norm * 1.01
        (release,) = model.ledger.releases
        assert release.plan.noise_stddev == pytest.approx(1e-3 * clip_norm)
        assert model.optimizer.clip_norm == clip_norm


def test_06_a_weight_that_is_used_twice_is_clipped_by_the_norm_of_its_whole_gradient():
    shared = L.Dense(4, use_bias=False)
    x, y = data(outputs=4, scale=100.0)
    model = private(layers=[shared, shared], sampling="full_batch", clip_norm=0.5)
    assert np.linalg.norm(released(model, x[:1], y[:1])) == pytest.approx(0.5, rel=1e-4)


def test_07_an_example_that_is_not_finite_adds_nothing_and_the_noise_stays():
    x, y = data()
    x[0], y[1] = np.nan, np.inf
    keras.utils.set_random_seed(0)
    model = private(sampling="full_batch")
    with_bad = released(model, x, y) * 40
    keras.utils.set_random_seed(0)
    without = released(private(sampling="full_batch"), x[2:], y[2:]) * 38
    np.testing.assert_allclose(with_bad, without, atol=1e-4)
    noisy = private(noise_multiplier=5.0, sampling="full_batch")
    gradient = released(noisy, np.full_like(x, np.nan), y) * 40
    assert np.isfinite(gradient).all()
    assert np.std(gradient) > 0.5  # of 10 numbers; 5 is expected


def test_08_added_losses_are_inside_the_clip_and_weight_regularizers_outside_once():
    x, y = data(scale=100.0)
    penalised = L.Dense(2, activity_regularizer=keras.regularizers.L2(1e3))
    model = private(layers=[penalised], sampling="full_batch", clip_norm=0.1)
    assert np.linalg.norm(released(model, x, y)) <= 0.1 + 1e-5

    decayed = L.Dense(2, kernel_regularizer=keras.regularizers.L2(0.5), use_bias=False)
    model = private(layers=[decayed], sampling="full_batch", clip_norm=1e-6)
    before = flat(model)
    gradient = released(model, x, y)
    np.testing.assert_allclose(gradient, before, atol=1e-5)  # 2 * 0.5 * w, whatever the batch
