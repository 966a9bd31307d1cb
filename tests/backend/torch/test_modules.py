"""PyTorch modules inside Keras layers are clipped and trained like Keras' own layers."""

import keras
import numpy as np
import pytest
import torch

import keras_dp
from keras_dp import backend
from keras_dp.errors import NotPrivateError

SIZE = 6


class Held(keras.layers.Layer):
    """A layer that holds modules: Keras wraps them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution = torch.nn.Conv2d(1, 4, 3)
        self.norm = torch.nn.GroupNorm(2, 4)

    def call(self, inputs):
        return torch.relu(self.norm(self.convolution(inputs))).mean((2, 3))


def images():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(SIZE, 1, 6, 6)).astype("float32")
    return x, draw.integers(3, size=SIZE).astype("int32")


def model_of(*layers):
    model = keras_dp.DPSequential([keras.Input((1, 6, 6)), *layers])
    optimizer = keras_dp.optimizers.DPSGD(0.5, clip_norm=0.1, noise_multiplier=1.0, seed=1)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def wrapped():
    return model_of(Held(), keras.layers.TorchModuleWrapper(torch.nn.Linear(4, 3)))


def loop(model, x, y):
    """The norms of examples' gradients, by PyTorch alone."""
    norms = []
    for i in range(SIZE):
        loss = torch.nn.functional.cross_entropy(
            model(x[i : i + 1]), torch.as_tensor(y[i : i + 1]).long()
        )
        grads = torch.autograd.grad(loss, [v.value for v in model.trainable_variables])
        norms.append(float(sum(g.square().sum() for g in grads).sqrt()))
    return norms


def clipped(model, x, y, params):
    """The clipped sum of all examples for these values of the weights."""
    rows = {"x": x, "y": y.astype("int64"), "sample_weight": None, "position": np.arange(SIZE)}
    metrics = [v.value for v in model.metrics_variables]
    return backend.clip_examples(model, params, [], metrics, rows, torch.ones(SIZE) > 0, 0.1)


def test_norms_of_examples_are_those_of_a_loop():
    model, (x, y) = wrapped(), images()
    assert len(model.trainable_variables) == 6
    found = clipped(model, x, y, [v.value for v in model.trainable_variables])
    np.testing.assert_allclose(found.norms.numpy(), loop(model, x, y), rtol=1e-5)


def test_values_that_a_stateless_call_gives_reach_the_modules():
    model, (x, y) = wrapped(), images()
    before = [v.value for v in model.trainable_variables]
    found = clipped(model, x, y, [torch.zeros_like(value) for value in before])
    np.testing.assert_allclose(found.losses, np.full(SIZE, np.log(3)), rtol=1e-6)
    after = [v.value for v in model.trainable_variables]
    assert all(a is b for a, b in zip(before, after, strict=True))
    parameters = [p for layer in model._flatten_layers() for p in layer.parameters()]
    assert {id(p) for p in before} <= {id(p) for p in parameters}


def test_modules_learn_what_keras_layers_learn():
    x, _ = images()
    x = np.tile(x, (200, 1, 1, 1)) + np.random.default_rng(1).normal(size=(1200, 1, 6, 6))
    y = (x.mean((1, 2, 3)) > 0).astype("int32")
    model = model_of(
        keras.layers.Flatten(), keras.layers.TorchModuleWrapper(torch.nn.Linear(36, 2))
    )
    model.compile(
        keras_dp.optimizers.DPSGD(4.0, clip_norm=1.0, noise_multiplier=0.5, seed=1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=300, epochs=10, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > 0.9


class Codebook(torch.nn.Module):
    """Moves its parameter towards the examples, as a vector quantiser does."""

    def __init__(self):
        super().__init__()
        self.codes = torch.nn.Parameter(torch.ones(36))

    def forward(self, x):
        if not x.is_meta:
            self.codes.data.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x * self.codes


class NewBuffer(torch.nn.Module):
    """Puts another tensor in the place of its buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.ones(36))

    def forward(self, x):
        if not x.is_meta:
            self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
        return x


class WritingLayer(keras.layers.Layer):
    """Writes into the tensor of a variable, where Keras' stateless call does not see it."""

    def build(self, shape):
        self.average = self.add_weight(shape=(shape[-1],), trainable=False, name="average")

    def call(self, x):
        if not x.is_meta:
            self.average.value.mul_(0.9).add_(1.0)
        return x


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.TorchModuleWrapper(Codebook(), name="writer"),
        keras.layers.TorchModuleWrapper(NewBuffer(), name="writer"),
        WritingLayer(name="writer"),
    ],
    ids=lambda layer: type(getattr(layer, "module", layer)).__name__,
)
def test_what_writes_beside_keras_is_refused_and_left_as_it_was(layer):
    model, (x, y) = model_of(keras.layers.Flatten(), layer, keras.layers.Dense(3)), images()

    def held():
        module = getattr(layer, "module", None)
        tensors = [] if module is None else [*module.buffers(), *module.parameters()]
        return [t.detach().clone() for t in [*tensors, *(v.value for v in model.variables)]]

    def refused():
        with pytest.raises(NotPrivateError, match=r"nor layers into the tensors.*writer"):
            model.fit(x, y, batch_size=2, verbose=0)

    refused()  # and built, for which Keras runs it on values of its own
    before = held()
    refused()
    for actual, expected in zip(held(), before, strict=True):
        assert torch.equal(actual, expected)
    assert not model.ledger.updates


class InAList(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [torch.nn.Linear(36, 36)]

    def call(self, x):
        return self.parts[0](x)


class Parameter(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.matrix = torch.nn.Parameter(torch.ones(36, 36))

    def call(self, x):
        return x @ self.matrix


class Tensor(Parameter):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.matrix.requires_grad_(False)
        self.other = {"matrix": torch.ones(36, 36, requires_grad=True)}

    def call(self, x):
        return x @ self.matrix @ self.other["matrix"]


@pytest.mark.parametrize("kind", [InAList, Parameter, Tensor])
def test_tensors_that_would_never_be_trained_are_refused(kind):
    model = model_of(keras.layers.Flatten(), kind(name="held"), keras.layers.Dense(3))
    with pytest.raises(ValueError, match=r"must be in Keras variables.*\['held'\].*add_weight"):
        model.fit(*images(), batch_size=2, verbose=0)
    assert not model.ledger.updates


def test_fixed_tensors_of_layers_and_losses_are_no_hindrance():
    fixed = Tensor()
    fixed.other["matrix"].requires_grad_(False)
    model = model_of(keras.layers.Flatten(), fixed, keras.layers.Dense(3))
    perceptual = torch.nn.Linear(3, 3)
    model.compile(
        keras_dp.optimizers.DPSGD(0.5, clip_norm=0.1, noise_multiplier=1.0, seed=1),
        lambda y, y_pred: keras.ops.mean(perceptual(y_pred) ** 2, axis=-1),
    )
    before = perceptual.weight.detach().clone()
    model.fit(*images(), batch_size=2, verbose=0)
    assert model.ledger.updates == 3
    assert torch.equal(perceptual.weight, before)


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = torch.nn.LSTM(6, 4, batch_first=True)

    def forward(self, x):
        return self.cells(x[:, 0])[0][:, -1]


class Attending(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x[:, 0], x[:, 0], x[:, 0])[0].mean(1)


class TiedTwice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(36, 36), torch.nn.Linear(36, 36)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x.flatten(1))))


def normed():
    linear = torch.nn.Linear(6, 4)
    return torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(linear))


@pytest.mark.parametrize("kind", [Recurrent, Attending, TiedTwice, normed])
@pytest.mark.filterwarnings("ignore:This loss runs for one example")
def test_modules_that_keep_their_parameters_elsewhere_are_clipped_like_a_loop(kind):
    torch.manual_seed(0)
    layer = keras.layers.TorchModuleWrapper(kind())
    model, (x, y) = model_of(layer, keras.layers.Flatten(), keras.layers.Dense(3)), images()
    model(x)
    found = clipped(model, x, y, [v.value for v in model.trainable_variables])
    np.testing.assert_allclose(found.norms.numpy(), loop(model, x, y), rtol=1e-5)


def test_a_module_that_keeps_statistics_is_refused_and_left_as_it_was():
    norm = keras.layers.TorchModuleWrapper(torch.nn.BatchNorm2d(1), name="statistics")
    model, (x, y) = model_of(norm, keras.layers.Flatten(), keras.layers.Dense(3)), images()
    model(x)
    buffers = [b.clone() for b in norm.module.buffers()]
    weights = [v.numpy() for v in model.trainable_variables]
    with pytest.raises(NotPrivateError, match=r"must not write into their buffers.*'statistics'"):
        model.fit(x, y, batch_size=2, verbose=0)
    for actual, expected in zip(norm.module.buffers(), buffers, strict=True):
        assert torch.equal(actual, expected)
    for variable, expected in zip(model.trainable_variables, weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), expected)
    assert model.ledger is None or not model.ledger.updates
