"""Kinds of Keras model, each as a plain and a private model with the same weights."""

import keras
import numpy as np

import keras_dp
from tests import kinds
from tests.kinds import Case, L, crossentropy

SIZE = 7


class Tied(L.Layer):
    """Uses one matrix twice, the second time transposed, between a scale and a shift."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")
        self.scale = self.add_weight(shape=(4,), name="scale")
        self.shift = self.add_weight(shape=(shape[-1],), name="shift")

    def call(self, x):
        hidden = keras.ops.tanh(keras.ops.matmul(x, self.matrix)) * self.scale
        return keras.ops.matmul(hidden, keras.ops.transpose(self.matrix)) + self.shift


def convolutions(cls):
    inputs = keras.Input((8, 8, 2))
    x = L.Conv2D(4, 3, strides=2, padding="same", activation="tanh")(inputs)
    x = L.DepthwiseConv2D(2, depth_multiplier=2, padding="same")(x)
    x = L.GroupNormalization(2)(x)
    x = L.Conv2D(3, 2, dilation_rate=2, use_bias=False)(x)
    x = L.Conv2DTranspose(2, 2, strides=2)(x)
    x = L.SeparableConv2D(3, 2, activation="gelu")(x)
    return cls(inputs, L.Dense(3)(L.Flatten()(L.MaxPooling2D(2, padding="same")(x))))


def attention(cls):
    """A table that is the output projection too; the loss is over positions."""
    inputs = keras.Input((5,), dtype="int32")
    table = L.ReversibleEmbedding(9, 4, name="table")
    x = table(inputs)
    x = x + L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True)
    x = L.LayerNormalization()(x)
    x = x + L.Conv1D(4, 2, padding="causal", activation="tanh")(x)
    return cls(inputs, table(L.RMSNormalization()(x), reverse=True))


def recurrent(cls):
    """Sequences of unequal lengths, whose ends are masked."""
    inputs = keras.Input((5,), dtype="int32")
    x = L.Embedding(9, 3, mask_zero=True)(inputs)
    return cls(inputs, L.Dense(9)(L.GRU(3, return_sequences=True)(x)))


def shared(cls):
    """A layer that is called twice, a weight that is used twice, and layers of single weights."""
    inputs = keras.Input((4, 6))
    twice = L.Dense(6, activation="tanh")
    x = Tied()(twice(twice(inputs)))
    x = L.PReLU(shared_axes=[1])(L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d")(x))
    return cls(inputs, L.Dense(3)(L.Dot(1)([x, x])[:, 0]))


def frozen(cls):
    """Layers that are not trained before, between and after those that are."""
    inputs = keras.Input((6,))
    x = L.Dense(6, activation="tanh", trainable=False)(inputs)
    x = L.Dense(5, activation="tanh")(x)
    x = L.BatchNormalization(trainable=False)(x)
    x = L.Dense(4, activation="tanh")(x)
    return cls(inputs, L.Dense(3, trainable=False)(x))


def _normal(*shape):
    return lambda rng: rng.normal(size=(SIZE, *shape)).astype("float32")


def _tokens(rng):
    tokens = rng.integers(1, 9, (SIZE, 5))
    tokens[::2, 3:] = 0
    return tokens


def _labels(*shape, classes=3):
    return lambda rng: rng.integers(0, classes, (SIZE, *shape))


_KINDS = {
    convolutions: (_normal(8, 8, 2), _labels()),
    attention: (_tokens, _labels(5, classes=9)),
    recurrent: (_tokens, _labels(5, classes=9)),
    shared: (_normal(4, 6), _labels()),
    frozen: (_normal(6), _labels()),
}
"""How a model is built, its inputs and its targets."""

_BY_NAME = {build.__name__: build for build in _KINDS}
WITH_OTHERS = ("sequential_mlp", "subclassed_with_added_loss", "dict_inputs_two_outputs")
"""Of `tests.kinds`: sample weights, a loss added by the model, several inputs and outputs."""
NAMES = (*_BY_NAME, *WITH_OTHERS)


def make(name):
    """Return a `tests.kinds.Case` with the same random weights in both models."""
    if name in WITH_OTHERS:
        case = kinds.make(name)
        cut = (case.x, case.y, case.sample_weight)
        cut = keras.tree.map_structure(lambda a: None if a is None else a[:SIZE], cut)
        case.x, case.y, case.sample_weight = cut
        return case
    build = _BY_NAME[name]
    x, y = _KINDS[build]
    rng = np.random.default_rng(0)
    case = Case(build(keras.Model), build(keras_dp.DPModel), x(rng), y(rng), crossentropy())
    weights = [np.abs(rng.normal(scale=0.5, size=w.shape)) for w in case.plain.get_weights()]
    signs = [rng.choice([-1, 1], w.shape) if w.ndim > 1 else 1 for w in weights]
    for model in (case.plain, case.private):
        model.set_weights([w * sign for w, sign in zip(weights, signs, strict=True)])
    return case


def full_batch(model, optimizer, loss, **compiling):
    """Compile for updates on all examples in microbatches of three, the last one padded."""
    settings = {"sampling": "full_batch", "microbatch_size": 3, **compiling}
    model.compile(optimizer, loss=loss, **settings)
    return model


def moved(before, model):
    """Return the sum that a step of length one on all examples took, an array for each weight."""
    after = [variable.numpy() for variable in model.trainable_variables]
    return [(old - new) * SIZE for old, new in zip(before, after, strict=True)]


def trained_weights(model):
    """Return copies of the weights that are trained."""
    return [np.array(variable.numpy()) for variable in model.trainable_variables]
