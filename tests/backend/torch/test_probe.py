"""Losses in which examples meet, where `torch.vmap` does not see it, are refused."""

import random

import keras
import numpy as np
import pytest
import torch

import keras_dp
from keras_dp.errors import NotPrivateError
from tests.kinds import L

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")


class Mixing(torch.autograd.Function):
    """Adds to each example a part of the one before, in a `vmap` of its own."""

    share = 0.5

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient

    @staticmethod
    def vmap(info, in_dims, x):
        return x + Mixing.share * x.roll(1, in_dims[0]), in_dims[0]


class Mixed(L.Layer):
    def call(self, x):
        return Mixing.apply(x)


class MixingGradients(Mixing):
    """The same, in the gradient alone."""

    @staticmethod
    def vmap(info, in_dims, x):
        result = x.clone()
        if result.requires_grad:
            result.register_hook(lambda gradient: gradient + gradient.roll(1, in_dims[0]))
        return result, in_dims[0]


class MixedGradient(L.Layer):
    def call(self, x):
        return MixingGradients.apply(x)


@torch.library.custom_op("keras_dp_tests::centred", mutates_args=())
def centred(x: torch.Tensor) -> torch.Tensor:
    """One example as it is; of many, `of_many` takes their mean away."""
    return x.clone()


@centred.register_vmap
def of_many(info, in_dims, x):
    x = x.movedim(in_dims[0], 0)
    return x - x.mean(0), 0


centred.register_fake(torch.empty_like)
centred.register_autograd(lambda ctx, gradient: gradient)


class Centred(L.Layer):
    """Calls an operator with a `vmap` of its own."""

    def call(self, x):
        return centred(x)


class Average(L.Layer):
    """Takes away an average that it keeps of all that it has seen."""

    def build(self, shape):
        self.average = torch.zeros(shape[-1])

    def call(self, x):
        if x.is_meta:
            return x
        out = x - self.average
        self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
        return out


class AverageInPlace(Average):
    def call(self, x):
        if x.is_meta:
            return x
        out = x - self.average
        self.average.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return out


class Before(L.Layer):
    """Adds the mean of what it was called with before, kept in a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def call(self, x):
        if x.is_meta:
            return x
        self.seen.append(x.detach())
        return x + 0.01 * sum(each.mean() for each in self.seen[-2:])


def model_of(layer, **settings):
    model = keras_dp.DPSequential([keras.Input((4,)), L.Dense(4), layer, L.Dense(2)])
    optimizer = keras_dp.optimizers.DPSGD(0.5, clip_norm=1.0, noise_multiplier=1.0, seed=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **settings)
    return model


@pytest.mark.parametrize("kind", [Mixed, MixedGradient, Centred, Average, AverageInPlace, Before])
def test_a_layer_in_which_examples_meet_is_refused_before_any_update(kind):
    model = model_of(kind())
    before = model.get_weights()
    with pytest.raises(NotPrivateError, match=r"depend on that example and the weights alone"):
        model.fit(X, Y, batch_size=8, verbose=0)
    assert not model.ledger.updates
    for actual, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("kind", [Average, AverageInPlace])
def test_a_layer_that_keeps_tensors_is_named(kind):
    with pytest.raises(NotPrivateError, match=r"hold tensors that were changed: \['keeper'\]"):
        model_of(kind(name="keeper")).fit(X, Y, batch_size=8, verbose=0)


def test_what_is_kept_between_runs_is_found_with_one_example_at_a_time():
    with pytest.raises(NotPrivateError, match=r"run before, others gave other gradients"):
        model_of(Average(), microbatch_size=1).fit(X, Y, batch_size=8, verbose=0)


@pytest.mark.parametrize("share", [0.0, 1e-7, 1e-2])
def test_a_part_of_another_example_is_refused_from_rounding_on(share, monkeypatch):
    monkeypatch.setattr(Mixing, "share", share)
    model = model_of(Mixed())
    if share < 1e-6:
        model.fit(X, Y, batch_size=8, verbose=0)
        assert model.ledger.updates == 4
        return
    with pytest.raises(NotPrivateError, match=r"let no `torch.autograd.Function.vmap`"):
        model.fit(X, Y, batch_size=8, verbose=0)


class Drawing(L.Layer):
    """Draws from every global generator there is."""

    def call(self, x):
        return x + random.random() + np.random.normal() + torch.nn.functional.dropout(x, 0.5)


@pytest.mark.parametrize(
    "layer", [L.Dropout(0.5), L.Dropout(0.5, seed=1), L.GaussianNoise(1.0), Drawing()]
)
def test_random_numbers_are_no_mixing(layer):
    model = model_of(layer)
    model.fit(X, Y, batch_size=8, verbose=0)
    assert model.ledger.updates == 4


def test_global_random_numbers_go_on_as_if_nothing_had_been_looked_at():
    model = model_of(L.Activation("tanh"))
    model.build((None, 4))

    def numbers():
        return [random.random(), np.random.normal(), float(torch.rand(()))]

    def begin():
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)

    begin()
    expected = numbers()
    begin()
    keras_dp.clipping.explain(model, X, Y, print_fn=lambda table: None)
    assert numbers() == expected


class Positive(L.Layer):
    """Raises an error for values that the probe makes up."""

    def call(self, x):
        if not x.is_meta and ((x > 0) & (x < 1)).any():
            raise ValueError("values must be whole")
        return x


def test_a_loss_that_takes_no_made_up_values_is_tried_with_zeros():
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, L.Dense(2)(Positive()(inputs)))
    model.compile(
        keras_dp.optimizers.DPSGD(0.5, clip_norm=1.0, noise_multiplier=1.0, seed=1), loss="mse"
    )
    model.fit(np.round(X), np.zeros((32, 2)), batch_size=8, verbose=0)
    assert model.ledger.updates == 4


@pytest.mark.parametrize("dtype", ["int32", "bool", "float16"])
def test_inputs_of_other_dtypes_are_made_up_too(dtype):
    inputs = keras.Input((4,), dtype=dtype)
    hidden = Mixed()(keras.ops.cast(inputs, "float32"))
    model = keras_dp.DPModel(inputs, L.Dense(2)(hidden))
    model.compile(
        keras_dp.optimizers.DPSGD(0.5, clip_norm=1.0, noise_multiplier=1.0, seed=1), loss="mse"
    )
    with pytest.raises(NotPrivateError, match=r"depend on that example and the weights alone"):
        model.fit((X > 0).astype(dtype), np.zeros((32, 2)), batch_size=8, verbose=0)
