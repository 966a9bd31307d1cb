"""A DP optimizer fed with a privatized gradient does what the one of Keras does with it."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import optimizers
from keras_dp.types import NoisyGradient
from tests.kinds import tiny, tiny_data

GRADIENTS = np.random.default_rng(0).normal(size=(6, 5, 3)).astype("float32")
START = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
PAIRS = {
    "DPSGD": (optimizers.DPSGD, keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
    "DPAdam": (optimizers.DPAdam, keras.optimizers.Adam, {"amsgrad": True}),
    "DPAdamW": (optimizers.DPAdamW, keras.optimizers.AdamW, {"weight_decay": 0.1}),
    "Lion": (None, keras.optimizers.Lion, {"beta_1": 0.8}),
    "a schedule": (None, keras.optimizers.SGD, {}),
}


def rate(name):
    if name == "a schedule":
        return keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    return 0.05


def stepped(optimizer, given):
    """The variable after steps with gradients, handed over by `given`."""
    variable = keras.Variable(START)
    for gradient in GRADIENTS:
        optimizer.apply(given([keras.ops.convert_to_tensor(gradient)]), [variable])
    return keras.ops.convert_to_numpy(variable.value)


def privatized(values, stddev=None):
    return NoisyGradient(values, stddev)


@pytest.mark.parametrize("name", PAIRS)
def test_steps_equal_those_of_keras_on_the_same_gradients(name):
    private, plain, settings = PAIRS[name]
    inner = plain(rate(name), **settings)
    ours = private(rate(name), **settings) if private else optimizers.DPOptimizer(inner)
    theirs = plain(rate(name), **settings)
    expected = stepped(theirs, lambda values: values)
    np.testing.assert_allclose(stepped(ours, privatized), expected, rtol=1e-5, atol=1e-6)
    assert int(ours.updates) == int(ours.iterations) == len(GRADIENTS)


def moments(gradients, beta_1=0.9, beta_2=0.999):
    """The first moment and the second one, corrected, after each gradient."""
    m = v = 0.0
    for t, g in enumerate(gradients.astype(float), start=1):
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2
        yield m / (1 - beta_1**t), v / (1 - beta_2**t)


def test_dp_lamb_is_the_published_algorithm():
    """Algorithm 2 of You et al. 2020."""
    w = START.astype(float)
    for m, v in moments(GRADIENTS):
        step = m / (np.sqrt(v) + 1e-6)
        w = w - 0.05 * np.linalg.norm(w) / np.linalg.norm(step) * step
    np.testing.assert_allclose(stepped(optimizers.DPLamb(0.05), privatized), w, atol=1e-5)


def test_dp_adam_bc_takes_the_variance_of_the_noise_from_the_second_moment():
    """Algorithm 1 of Tang et al. 2023, with noise of one scale."""
    w = START.astype(float)
    for m, v in moments(GRADIENTS):
        w = w - 0.05 * m / np.sqrt(np.maximum(v - 0.7**2, 0.01))
    optimizer = optimizers.DPAdamBC(0.05, gamma=0.01)
    ours = stepped(optimizer, lambda values: privatized(values, np.float32(0.7)))
    np.testing.assert_allclose(ours, w, atol=1e-5)


def test_gradients_that_are_not_privatized_are_refused():
    with pytest.raises(keras_dp.NotPrivateError, match="takes privatized gradients only"):
        stepped(optimizers.DPAdam(0.05), lambda values: values)


def without_noise(ema_warmup=False):
    """Two weights under one constant gradient, so that update t ends at -0.1 t."""
    made = tiny(
        1,
        optimizer=optimizers.DPSGD(
            0.1,
            clip_norm=1.0,
            noise_multiplier=0.0,
            use_ema=True,
            ema_momentum=0.25,
            ema_warmup=ema_warmup,
        ),
        loss=lambda y_true, y_pred: y_pred,
        sampling="full_batch",
    )
    made.set_weights([np.zeros((4, 1)), np.zeros(1)])
    x = np.zeros((6, 4), "float32")
    made.fit(x, np.zeros((6, 1)), epochs=5, verbose=0)
    return made.get_weights()[1][0]


@pytest.mark.parametrize("ema_warmup", [False, True])
def test_fit_ends_in_the_moving_average_of_the_weights(ema_warmup):
    weights = -0.1 * np.arange(6)
    average = weights[0] if ema_warmup else weights[1]
    for t, new in enumerate(weights[1:]):
        kept = min(0.25, (1 + t) / (10 + t)) if ema_warmup else 0.25
        average = kept * average + (1 - kept) * new
    np.testing.assert_allclose(without_noise(ema_warmup), average, rtol=1e-5)


def test_dp_adam_bc_is_told_the_noise_of_each_update():
    optimizer = optimizers.DPAdamBC(0.1, clip_norm=2.0, noise_multiplier=1.5)
    tiny(optimizer=optimizer).fit(*tiny_data(), batch_size=20, steps_per_epoch=2, verbose=0)
    expected = (1 - 0.999**2) * (2.0 * 1.5 / 20) ** 2
    assert float(optimizer.inner_optimizer.noise_variance) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["DPSGD", "DPAdam", "DPAdamW", "DPLamb", "DPAdamBC"])
def test_a_configuration_gives_the_same_optimizer_without_the_seed(name):
    made = getattr(optimizers, name)(0.1, clip_norm=0.5, noise_multiplier=1.2, seed=3)
    config = made.get_config()
    again = type(made).from_config(dict(config))
    assert again.get_config() == config
    assert (again.clip_norm, again.noise_multiplier, again.seed) == (0.5, 1.2, None)
