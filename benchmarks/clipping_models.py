"""The models of the clipping benchmark: Keras models with random data, built from a fixed seed.

`MODELS` maps a name to a function that makes a `Case`. The nine of `NINE` enter the geometric
means; `section_d`, the CNN of `benchmarks/section_d.py`, is an extra.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import keras_dp

SEED = 20


@dataclass(frozen=True)
class Case:
    """A model, its loss, and one batch of data."""

    model: keras.Model
    loss: Callable[..., Any]
    batch: dict[str, np.ndarray]

    @property
    def size(self):
        """Number of examples of the batch."""
        return self.batch["x"].shape[0]

    @property
    def params(self):
        """Values of the trainable variables."""
        return [variable.value for variable in self.model.trainable_variables]

    @property
    def frozen(self):
        """Values of all other variables."""
        return [variable.value for variable in self.model.non_trainable_variables]

    def mean_loss(self, params, frozen, batch):
        """The mean loss of a batch as ordinary training has it."""
        outputs, _ = self.model.stateless_call(params, frozen, batch["x"], training=True)
        return self.loss(batch["y"], outputs)

    def example_loss(self, params, frozen, example):
        """The loss of one example: the same, for a batch of one."""
        one = {name: leaf[None] for name, leaf in example.items()}
        return self.mean_loss(params, frozen, one)


def build(name):
    """Make the case `name` from the fixed seed."""
    keras.utils.set_random_seed(SEED)
    return MODELS[name]()


def _classifier(inputs, logits, batch, classes=10):
    """A classifier of normal random inputs with random labels."""
    draw = np.random.default_rng(SEED)
    x = draw.normal(size=(batch, *inputs.shape[1:])).astype(np.float32)
    y = draw.integers(classes, size=batch)
    return _case(keras.Model(inputs, logits), x, y)


def _case(model, x, y):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Case(model, loss, {"x": x, "y": y.astype(np.int32)})


# --- dense, recurrent, linear -------------------------------------------------------------------


def mlp():
    """Three hidden layers of 1,024 units on 784 features."""
    inputs = keras.Input((784,))
    x = inputs
    for _ in range(3):
        x = layers.Dense(1024, activation="relu")(x)
    return _classifier(inputs, layers.Dense(10)(x), 256)


def lstm():
    """One LSTM of 128 units over 64 steps of 128 features."""
    inputs = keras.Input((64, 128))
    return _classifier(inputs, layers.Dense(10)(layers.LSTM(128)(inputs)), 64)


def head():
    """A linear head of 1,000 classes on 2,048 features, as in transfer learning."""
    inputs = keras.Input((2048,))
    return _classifier(inputs, layers.Dense(1000)(inputs), 1024, classes=1000)


# --- convolutions -------------------------------------------------------------------------------


class StandardisedConv2D(layers.Conv2D):
    """A convolution whose kernel has mean 0 and a fixed scale for every output channel."""

    def build(self, input_shape):
        super().build(input_shape)
        self.gain = self.add_weight(shape=(self.filters,), initializer="ones", name="gain")

    def call(self, inputs):
        kernel = ops.convert_to_tensor(self.kernel)
        mean, variance = ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
        fan_in = int(np.prod(kernel.shape[:-1]))
        scale = self.gain * ops.rsqrt(ops.maximum(variance * fan_in, 1e-4))
        kernel = (kernel - mean) * scale
        outputs = ops.conv(inputs, kernel, strides=self.strides, padding=self.padding)
        return outputs + self.bias


def _before(conv, x, *args, **kwargs):
    """Activation, normalisation, convolution: the order inside a residual block."""
    x = layers.GroupNormalization(16)(layers.Activation("relu")(x))
    return conv(*args, padding="same", **kwargs)(x)


def _wide_block(conv, x, filters, strides, first):
    shortcut = _before(conv, x, filters, 1, strides=strides) if first else x
    x = _before(conv, x, filters, 3, strides=strides)
    return layers.add([shortcut, _before(conv, x, filters, 3)])


def wide_resnet(depth, width, conv, batch):
    """A WideResNet with group normalisation on 32x32 colour images."""
    inputs = keras.Input((32, 32, 3))
    x = conv(16, 3, padding="same")(inputs)
    for stage in range(3):
        for block in range((depth - 4) // 6):
            strides = 2 if stage > 0 and block == 0 else 1
            x = _wide_block(conv, x, 16 * width * 2**stage, strides, first=block == 0)
    x = layers.GroupNormalization(16)(layers.Activation("relu")(x))
    x = layers.GlobalAveragePooling2D()(x)
    return _classifier(inputs, layers.Dense(10)(x), batch)


LITE_STAGES = (  # kernel, blocks, strides, expansion, filters
    (3, 1, 1, 1, 16),
    (3, 2, 2, 6, 24),
    (5, 1, 2, 6, 40),
    (3, 2, 2, 6, 80),
    (5, 1, 1, 6, 112),
    (5, 2, 2, 6, 192),
    (3, 1, 1, 6, 320),
)


def _frozen_norm(x, activation=True):
    x = layers.BatchNormalization(trainable=False)(x)
    return layers.ReLU(6.0)(x) if activation else x


def _pointwise(x, filters, kernel=1, strides=1):
    settings = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    return layers.Conv2D(filters, kernel, strides=strides, **settings)(x)


def _depthwise(x, kernel, strides):
    scale = keras.initializers.RandomNormal(stddev=2**0.5 / kernel)
    settings = {"padding": "same", "use_bias": False, "depthwise_initializer": scale}
    return layers.DepthwiseConv2D(kernel, strides=strides, **settings)(x)


def _mbconv(x, kernel, strides, expansion, filters):
    """Expand, filter every channel by itself, project; a shortcut where the shapes agree."""
    shortcut = x
    if expansion > 1:
        x = _frozen_norm(_pointwise(x, expansion * x.shape[-1]))
    x = _frozen_norm(_depthwise(x, kernel, strides))
    x = _frozen_norm(_pointwise(x, filters), activation=False)
    return layers.add([shortcut, x]) if shortcut.shape == x.shape else x


def effnet():
    """MBConv blocks with EfficientNet-Lite0's widths, fewer of them, on 64x64 images."""
    inputs = keras.Input((64, 64, 3))
    x = _frozen_norm(_pointwise(inputs, 32, kernel=3, strides=2))
    for kernel, blocks, strides, expansion, filters in LITE_STAGES:
        for block in range(blocks):
            x = _mbconv(x, kernel, strides if block == 0 else 1, expansion, filters)
    x = layers.GlobalAveragePooling2D()(_frozen_norm(_pointwise(x, 1280)))
    return _classifier(inputs, layers.Dense(10)(x), 32)


def section_d():
    """The tanh CNN of `benchmarks/section_d.py` on 28x28 grey images."""
    private = keras_dp.applications.TanhCNN()
    return _classifier(private.inputs[0], private.outputs[0], 256)


# --- transformers -------------------------------------------------------------------------------


class Positions(layers.Layer):
    """Adds a learned table of positions, after a learned class token where one is wanted."""

    def __init__(self, class_token=False, **kwargs):
        super().__init__(**kwargs)
        self.class_token = class_token

    def build(self, input_shape):
        _, length, width = input_shape
        if self.class_token:
            self.token = self.add_weight(shape=(1, 1, width), name="token")
        shape = (length + self.class_token, width)
        self.table = self.add_weight(shape=shape, initializer="random_normal", name="table")

    def call(self, inputs):
        if self.class_token:
            token = ops.broadcast_to(self.token, (ops.shape(inputs)[0], 1, inputs.shape[-1]))
            inputs = ops.concatenate([token, inputs], axis=1)
        return inputs + self.table


class TiedLogits(layers.Layer):
    """Logits by the table of an embedding layer."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(ops.convert_to_tensor(self.embedding.embeddings)))


def _norm(x):
    return layers.LayerNormalization(epsilon=1e-6)(x)


def _transformer_block(x, heads, hidden, causal=False):
    """Attention, then two dense layers, each after a layer normalisation."""
    width = x.shape[-1]
    normed = _norm(x)
    attention = layers.MultiHeadAttention(heads, width // heads)
    x = layers.add([x, attention(normed, normed, use_causal_mask=causal)])
    wide = layers.Dense(hidden, activation="gelu")(_norm(x))
    return layers.add([x, layers.Dense(width)(wide)])


def vit(depth=4, batch=32):
    """A small vision transformer: width 192, 3 heads, 64 patches and a class token."""
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(192, 4, strides=4)(inputs)
    x = Positions(class_token=True)(layers.Reshape((64, 192))(x))
    for _ in range(depth):
        x = _transformer_block(x, 3, 768)
    return _classifier(inputs, layers.Dense(10, name="head")(_norm(x)[:, 0]), batch)


def bitfit():
    """The vision transformer with only biases and the head trainable."""
    case = vit()
    head_variables = {id(variable) for variable in case.model.get_layer("head").variables}
    for variable in case.model.variables:
        is_bias = variable.name in ("bias", "beta")  # beta: the bias of a normalisation
        variable.trainable = is_bias or id(variable) in head_variables
    return case


def text():
    """A causal language model of 20,000 tokens, output tied to the embedding, 64 positions."""
    vocabulary, length = 20_000, 64
    inputs = keras.Input((length,), dtype="int32")
    embedding = layers.Embedding(vocabulary, 128)
    x = Positions()(embedding(inputs))
    for _ in range(2):
        x = _transformer_block(x, 4, 512, causal=True)
    model = keras.Model(inputs, TiedLogits(embedding)(_norm(x)))
    tokens = np.random.default_rng(SEED).integers(vocabulary, size=(64, length + 1))
    return _case(model, tokens[:, :-1], tokens[:, 1:])


MODELS = {
    "mlp": mlp,
    "wrn16_2": partial(wide_resnet, 16, 2, layers.Conv2D, 64),
    "wrn16_4_ws": partial(wide_resnet, 16, 4, StandardisedConv2D, 32),
    "vit": vit,
    "text": text,
    "lstm": lstm,
    "effnet": effnet,
    "head": head,
    "bitfit": bitfit,
    "section_d": section_d,
    "vit12": partial(vit, depth=12, batch=8),
}
NINE = tuple(name for name in MODELS if name not in ("section_d", "vit12"))
