"""Random numbers of examples, and the noise, which has nothing to do with them."""

import keras
import numpy as np
import pytest
import torch

import keras_dp
from keras_dp import backend
from tests.kinds import L

SIZE, WIDTH = 6, 40


class TorchDropout(L.Layer):
    def call(self, x):
        return torch.nn.functional.dropout(x, 0.5)


DROPPING = {
    "keras": lambda: L.Dropout(0.5),
    "seeded": lambda: L.Dropout(0.5, seed=4),
    "torch": TorchDropout,
    "module": lambda: L.TorchModuleWrapper(torch.nn.Dropout(0.5), output_shape=(None, WIDTH)),
}


def model_of(layer=None, seed=None):
    inputs = keras.Input((WIDTH,))
    model = keras_dp.DPModel(inputs, L.Dense(1)(inputs if layer is None else layer(inputs)))
    optimizer = keras_dp.optimizers.DPSGD(0.5, clip_norm=1.0, noise_multiplier=1.0, seed=seed)
    model.compile(optimizer, "mse", sampling="full_batch", microbatch_size=4)
    model.set_weights([np.ones(w.shape) for w in model.get_weights()])
    return model


def fitted(layer, seed, torch_seed):
    model = model_of(layer, seed)
    torch.manual_seed(torch_seed)
    model.fit(np.ones((SIZE, WIDTH)), np.zeros((SIZE, 1)), epochs=2, verbose=0)
    return np.concatenate([w.numpy().ravel() for w in model.trainable_variables])


@pytest.mark.parametrize("kind", DROPPING)
def test_equal_examples_draw_numbers_of_their_own(kind):
    """Two of forty numbers each would drop the same ones once in 2**40."""
    model = model_of(DROPPING[kind]())
    rows = {"x": np.ones((SIZE, WIDTH), "float32"), "y": np.zeros((SIZE, 1), "float32")}
    rows |= {"sample_weight": None, "position": np.arange(SIZE)}
    kinds = model.trainable_variables, model.non_trainable_variables, model.metrics_variables
    state = [[variable.value for variable in variables] for variables in kinds]

    def kernel_of(i):
        torch.manual_seed(0)
        valid = torch.arange(SIZE) == i
        return backend.clip_examples(model, *state, rows, valid, 1.0).grads[0].flatten()

    kernels = [kernel_of(i) for i in range(SIZE)]
    for i in range(SIZE):
        assert 8 <= int((kernels[i] != 0).sum()) <= 32  # but once in 2e4 of a fair coin's draws
        for j in range(i):
            assert not torch.equal(kernels[i] != 0, kernels[j] != 0)


def test_the_seed_of_pytorch_does_not_settle_the_noise():
    first, second = (fitted(None, seed=None, torch_seed=7) for _ in range(2))
    assert not np.isclose(first, second).any()


def test_the_seed_of_the_optimizer_settles_the_noise_whatever_pytorch_draws():
    np.testing.assert_array_equal(fitted(None, 1, torch_seed=7), fitted(None, 1, torch_seed=8))


@pytest.mark.parametrize("kind", DROPPING)
def test_dropout_with_a_seed_is_repeated_by_it_and_else_by_the_one_of_pytorch(kind):
    first, again, other = (fitted(DROPPING[kind](), 1, torch_seed) for torch_seed in (7, 7, 8))
    np.testing.assert_array_equal(again, first)
    assert np.array_equal(other, first) == (kind == "seeded")
