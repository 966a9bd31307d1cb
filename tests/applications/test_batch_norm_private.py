"""Models without their BatchNormalization train privately, exactly, and keep no data."""

import jax
import numpy as np
import pytest

import keras_dp
from keras_dp.applications import replace_batch_norm
from keras_dp.optimizers import DPSGD
from tests.applications import blocks
from tests.applications.blocks import BatchNorm, L
from tests.applications.test_batch_norm import KINDS

pytestmark = pytest.mark.usefixtures("unoptimized")

SIZE = 6
CLIP_NORM = 0.5


def classifier():
    block = blocks.InBuild(6)
    return blocks.functional(L.Dense(4), BatchNorm(), block, L.Flatten(), L.Dense(2))


def examples():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(SIZE, *blocks.SHAPE)).astype("float32")
    return x, rng.normal(size=(SIZE, 2)).astype("float32")


def clipped_loop(model, x, y):
    """Sum the clipped gradients, one example at a time."""
    state = [v.value for v in model.non_trainable_variables]

    def loss(params, x, y):
        outputs, _ = model.stateless_call(params, state, x[None], training=True)
        return jax.numpy.mean((outputs[0] - y) ** 2)

    params = [v.value for v in model.trainable_variables]
    total = [np.zeros(p.shape) for p in params]
    gradient = jax.jit(jax.grad(loss))
    for one, target in zip(x, y, strict=True):
        leaves = [np.asarray(g, np.float64) for g in gradient(params, one, target)]
        norm = np.sqrt(sum(np.sum(leaf**2) for leaf in leaves))
        for sum_, leaf in zip(total, leaves, strict=True):
            sum_ += leaf * min(1.0, CLIP_NORM / norm)
    return total


@pytest.mark.parametrize("by", KINDS)
def test_a_private_update_equals_the_loop_over_examples_and_moves_no_statistics(by):
    new, _ = replace_batch_norm(blocks.randomise(classifier()), by)
    x, y = examples()
    expected = clipped_loop(new, x, y)
    before = [np.asarray(v) for v in new.trainable_variables]
    frozen = [np.array(v) for v in new.non_trainable_variables]
    private = keras_dp.make_private(new)
    optimizer = DPSGD(1.0, clip_norm=CLIP_NORM, noise_multiplier=0.0)
    private.compile(optimizer, "mse", sampling="full_batch")
    private.fit(x, y, batch_size=SIZE, verbose=0)
    for old, variable, total in zip(before, new.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(old - np.asarray(variable), total / SIZE, atol=1e-6)
    for old, variable in zip(frozen, new.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable)
    names = [v.name for v in new.trainable_variables]
    assert names.count("gamma") == (0 if by == "affine" else 2)
    assert len(frozen) == {"group_norm": 0, "affine": 4, "frozen_statistics": 4}[by]


def test_without_replacement_the_model_is_refused():
    model = keras_dp.make_private(classifier())
    model.compile(DPSGD(1.0, noise_multiplier=1.0), "mse")
    with pytest.raises(keras_dp.NotPrivateError, match="BatchNormalization"):
        model.fit(*examples(), verbose=0)


def test_a_model_of_a_class_of_its_own_trains_privately_too():
    backbone, _ = replace_batch_norm(blocks.make("backbone"), "frozen_statistics")
    features = L.Flatten()(backbone(backbone.input)["features"])
    model = keras_dp.DPModel(backbone.input, L.Dense(2)(features))
    model.compile(DPSGD(1.0, noise_multiplier=1.0), "mse")
    frozen = [np.array(v) for v in model.non_trainable_variables]
    gammas = [np.array(v) for v in model.trainable_variables if v.name == "gamma"]
    model.fit(*examples(), batch_size=SIZE, verbose=0)
    for old, variable in zip(frozen, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable)
    new = [np.asarray(v) for v in model.trainable_variables if v.name == "gamma"]
    assert all((a != b).any() for a, b in zip(gammas, new, strict=True))
