"""Training under dtype policies: what is released is that of float32, up to their rounding."""

import contextlib

import jax
import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.backend.jax import example
from keras_dp.optimizers import DPSGD
from tests.kinds import crossentropy

L = keras.layers
SIZE = 16
CLIP_NORM = 0.5


@contextlib.contextmanager
def dtype_policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    yield
    keras.config.set_dtype_policy(before)


def network(policy, private=True):
    with dtype_policy(policy):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6, 6, 1))
        x = L.Conv2D(4, 3, activation="gelu")(inputs)
        x = L.GroupNormalization(2)(x)
        x = L.Dense(8, activation="tanh")(L.Flatten()(x))
        outputs = L.Dense(3)(x)
        return (keras_dp.DPModel if private else keras.Model)(inputs, outputs)


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SIZE, 6, 6, 1)) * rng.lognormal(size=(SIZE, 1, 1, 1))
    return x.astype("float32"), rng.integers(0, 3, SIZE)


class Times:
    """A loss that is a multiple of another."""

    def __init__(self, loss, factor):
        self.loss, self.factor = loss, factor

    def __call__(self, y, y_pred):
        return self.factor * self.loss(y, y_pred)


def released(model, x, y, factor=1.0, **settings):
    """Return the divided gradient of one update on all examples."""
    optimizer = {"clip_norm": CLIP_NORM * factor, "noise_multiplier": 0.0, "seed": 1}
    optimizer.update((k, settings.pop(k)) for k in list(settings) if k in optimizer)
    rate = 1.0 / factor
    loss = Times(crossentropy(), factor)
    model.compile(DPSGD(rate, **optimizer), loss=loss, sampling="full_batch", **settings)
    before = model.get_weights()
    model.fit(x, y, epochs=1, verbose=0)
    moved = [a.astype("float64") - b for a, b in zip(before, model.get_weights(), strict=True)]
    return np.concatenate([m.ravel() for m in moved])


def clipped_loop(policy, x, y):
    """Return the mean of clipped gradients of a plain model, one example at a time."""
    model = network(policy, private=False)
    state = [v.value for v in model.non_trainable_variables]
    loss_fn = crossentropy()

    def loss(params, x, y):
        outputs, _ = model.stateless_call(params, state, x, training=True)
        return loss_fn(y, outputs)

    gradient, total = jax.jit(jax.grad(loss)), 0.0
    params = [v.value for v in model.trainable_variables]
    for i in range(SIZE):
        leaves = gradient(params, x[i : i + 1], y[i : i + 1])
        flat = np.concatenate([np.asarray(leaf, "float64").ravel() for leaf in leaves])
        total += flat * min(1, CLIP_NORM / np.linalg.norm(flat))
    return total / SIZE


def distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("policy", "on_device"), [("mixed_bfloat16", False), ("mixed_float16", True)]
)
def test_an_update_is_the_loops_under_the_same_policy_and_that_of_float32(
    policy, on_device, monkeypatch
):
    monkeypatch.setattr(keras_dp.backend, "loops_on_device", lambda: on_device)
    x, y = data()
    model = network(policy)
    found = released(model, x, y, microbatch_size=5)
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert distance(found, clipped_loop(policy, x, y)) < 0.02
    exact = clipped_loop("float32", x, y)
    assert 1e-5 < distance(found, exact) < 0.02
    assert distance(found, 0.9 * exact) > 0.05


def test_gradients_for_weights_of_bfloat16_are_released_in_float32(monkeypatch):
    """Read where they reach the optimizer, since a weight of 8 bits can hardly move by them."""
    seen = []
    original = DPSGD.stateless_apply

    def spy(self, optimizer_variables, grads, trainable_variables):
        jax.debug.callback(lambda *values: seen.extend(map(np.asarray, values)), *grads.values)
        return original(self, optimizer_variables, grads, trainable_variables)

    monkeypatch.setattr(DPSGD, "stateless_apply", spy)
    x, y = data()
    model = network("bfloat16")
    released(model, x, y)
    jax.effects_barrier()
    assert {v.dtype for v in model.trainable_variables} == {"bfloat16"}
    assert {g.dtype for g in seen} == {np.dtype("float32")}
    found = np.concatenate([g.astype("float64").ravel() for g in seen])
    assert distance(found, clipped_loop("bfloat16", x, y)) < 0.02


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_float16_trains_where_its_gradients_would_vanish_or_overflow(factor, monkeypatch):
    x, y = data()
    expected = clipped_loop("float32", x, y)
    found = released(network("mixed_float16"), x, y, factor)
    assert distance(found, expected) < 0.02
    monkeypatch.setattr(example, "loss_scale", lambda model: None)
    without = released(network("mixed_float16"), x, y, factor)
    assert distance(without, expected) > 0.2


def test_a_layer_in_float16_is_enough_for_a_loss_scale():
    inputs = keras.Input((2,))
    inner = keras.Sequential([L.Dense(2), L.Dense(2, dtype="mixed_float16")])
    assert example.loss_scale(keras_dp.DPModel(inputs, inner(inputs))) == 256
    for policy, expected in (("mixed_float16", 256), ("mixed_bfloat16", None), ("float32", None)):
        assert example.loss_scale(network(policy)) == expected


def test_an_update_in_which_every_gradient_overflows_is_noised_and_counted():
    """It is that of an update without examples: nothing is skipped, and nothing else is added."""
    x, y = data()
    moved, counted = [], []
    for inputs, factor in ((x, 1e12), (np.full_like(x, np.nan), 1e12)):
        model = network("mixed_float16")
        moved.append(released(model, inputs, y, factor, noise_multiplier=1.0))
        counted.append(model.ledger.updates)
    noise = CLIP_NORM / SIZE
    assert counted == [1, 1]
    np.testing.assert_array_equal(*moved)
    assert np.std(moved[0]) == pytest.approx(noise, rel=0.2)
