"""Small models of every kind, each with a batch of data."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import keras_dp

L = keras.layers

SIZE = 5
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def draw(*shape):
    """Normal random numbers from a fixed seed."""
    return np.random.default_rng(3).normal(size=(SIZE, *shape)).astype(np.float32)


def tokens(length, vocabulary=11):
    """Random tokens; the last ones of every row are 0."""
    found = np.random.default_rng(4).integers(1, vocabulary, (SIZE, length)).astype(np.int32)
    for i, row in enumerate(found):
        row[length - i % 3 :] = 0
    return found


def labels(classes=3):
    """Classes in turn."""
    return (np.arange(SIZE) % classes).astype(np.int32)


def image(*body, size=8, channels=3, head=True):
    """A classifier of images."""
    parts = [L.GlobalAveragePooling2D(), L.Dense(3)] if head else []
    model = keras.Sequential([keras.Input((size, size, channels)), *body, *parts])
    return model, SPARSE, (draw(size, size, channels), labels(), None)


def sequence(*body, width=4, length=6):
    """A classifier of sequences of vectors."""
    model = keras.Sequential([keras.Input((length, width)), *body, L.Dense(3)])
    return model, SPARSE, (draw(length, width), labels(), None)


def text(*body, length=6, mask_zero=False):
    """A classifier of tokens."""
    embedding = L.Embedding(11, 4, mask_zero=mask_zero)
    model = keras.Sequential([keras.Input((length,), dtype="int32"), embedding, *body, L.Dense(3)])
    return model, SPARSE, (tokens(length), labels(), None)


def mlp():
    model = keras.Sequential(
        [keras.Input((7,)), L.Dense(6, "tanh"), L.Dense(5, "gelu", use_bias=False), L.Dense(3)]
    )
    return model, SPARSE, (draw(7), labels(), None)


def tied():
    class Tied(L.Layer):
        def __init__(self, embedding):
            super().__init__()
            self.embedding = embedding

        def call(self, inputs):
            table = ops.convert_to_tensor(self.embedding.embeddings)
            return ops.matmul(inputs, ops.transpose(table))

    inputs = keras.Input((6,), dtype="int32")
    embedding = L.Embedding(11, 4)
    outputs = Tied(embedding)(L.Dense(4, "tanh")(embedding(inputs)))
    return keras.Model(inputs, outputs), SPARSE, (tokens(6), tokens(6), None)


def reversible():
    embedding = L.ReversibleEmbedding(11, 4)
    inputs = keras.Input((6,), dtype="int32")
    outputs = embedding(L.Dense(4, "tanh")(embedding(inputs)), reverse=True)
    return keras.Model(inputs, outputs), SPARSE, (tokens(6), tokens(6), None)


def siamese():
    one, other = keras.Input((4,)), keras.Input((4,))
    shared = L.Dense(3, "tanh")
    outputs = L.Dense(1)(L.multiply([shared(one), shared(other)]))
    x = [draw(4), draw(4)[::-1].copy()]
    return keras.Model([one, other], outputs), "mse", (x, draw(1), None)


def attention():
    inputs = keras.Input((6, 4))
    x = L.MultiHeadAttention(2, 3)(inputs, inputs, use_causal_mask=True)
    x = L.LayerNormalization()(L.add([inputs, x]))
    return keras.Model(inputs, L.Dense(3)(x[:, -1])), SPARSE, (draw(6, 4), labels(), None)


def vit():
    sizes = keras_dp.applications.ViTSizes(patch=4, width=8, depth=2, heads=2, hidden=16)
    model = keras_dp.applications.ViT(sizes, input_shape=(8, 8, 3), classes=3)
    model.layers[-1].kernel.assign(draw(3)[:1].repeat(8, 0))
    return model, SPARSE, (draw(8, 8, 3), labels(), None)


def wide_resnet():
    model = keras_dp.applications.WideResNet(10, 1, (8, 8, 3), 3)
    return model, SPARSE, (draw(8, 8, 3), labels(), None)


def several():
    """Two inputs in a dict, two outputs with losses and weights of their own."""
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    hidden = L.concatenate([L.Dense(4, "relu")(a), L.Dense(2)(b)])
    model = keras.Model({"a": a, "b": b}, {"p": L.Dense(3)(hidden), "q": L.Dense(1)(hidden)})
    x = {"a": draw(4), "b": draw(3)}
    y = {"p": labels(), "q": draw(1)}
    return model, {"p": SPARSE, "q": "mse"}, (x, y, None)


def weighted():
    model, loss, (x, y, _) = mlp()
    return model, loss, (x, y, np.array([1.0, 0.0, 2.5, 0.3, 1.0], np.float32))


def frozen():
    model, loss, rows = mlp()
    model.layers[1].trainable = False
    return model, loss, rows


def frozen_batch_norm():
    norm = L.BatchNormalization(trainable=False)
    model, loss, rows = image(L.Conv2D(4, 3), norm, L.ReLU())
    norm.moving_mean.assign([0.3, -0.2, 0.1, 0.5])
    return model, loss, rows


def penalised():
    """Losses from `add_loss`, activity and weight regularizers."""

    class Adds(L.Layer):
        def call(self, inputs):
            self.add_loss(0.1 * ops.mean(ops.abs(inputs)))
            return inputs

    dense = L.Dense(5, activity_regularizer="l2", kernel_regularizer="l2")
    model = keras.Sequential([keras.Input((7,)), dense, Adds(), L.Dense(3)])
    return model, SPARSE, (draw(7), labels(), None)


class Scale(L.Layer):
    """Derived weights: a product of two, used on both sides of a nonlinearity."""

    def build(self, shape):
        self.a = self.add_weight(shape=(shape[-1], shape[-1]), name="a")
        self.g = self.add_weight(shape=(shape[-1],), initializer="ones", name="g")

    def call(self, inputs):
        kernel = ops.tanh(self.a) * ops.expand_dims(self.g, 0)
        return ops.matmul(ops.tanh(ops.matmul(inputs, kernel)), ops.transpose(kernel)) * self.g


class Odd(L.Layer):
    """Operations no rule knows, weights on the left, a weight as loss by itself."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1],), initializer="ones", name="w")
        self.p = self.add_weight(shape=(3, shape[-2]), name="p")
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, inputs):
        x = ops.maximum(inputs, self.w) / (
            2.0 + ops.square(self.w) * ops.cast(inputs > 0, "float32")
        )
        x = ops.matmul(self.p, x)
        self.add_loss(ops.sum(ops.square(self.w)))
        return ops.concatenate(
            [ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1])), x], axis=1
        )


class Loop(L.Layer):
    """A loop whose body has weights."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], shape[-1]), name="w")

    def call(self, inputs):
        w = ops.convert_to_tensor(self.w)
        return ops.fori_loop(0, 3, lambda i, x: ops.tanh(ops.matmul(x, w)), inputs)


class Compiled(L.Layer):
    """Calls a function that TensorFlow compiles by itself."""

    def build(self, shape):
        self.dense = L.Dense(2)
        self.dense.build(shape)

    def call(self, inputs):
        return tf.function(self.dense, autograph=False)(inputs)


MODELS = {
    "mlp": mlp,
    "conv same": lambda: image(L.Conv2D(4, 3, padding="same", activation="relu")),
    "conv valid strided": lambda: image(L.Conv2D(4, 3, strides=2), L.Conv2D(17, 2), L.Conv2D(4, 2)),
    "conv many channels": lambda: image(L.Conv2D(18, 3, strides=2, padding="same"), L.Conv2D(5, 2)),
    "conv dilated": lambda: image(L.Conv2D(4, 3, dilation_rate=2, padding="same")),
    "conv grouped": lambda: image(L.Conv2D(4, 3, groups=2), channels=4),
    "conv 1x1": lambda: image(L.Conv2D(4, 1), L.Conv2D(5, 1, strides=2)),
    "depthwise": lambda: image(L.DepthwiseConv2D(3, padding="same"), L.DepthwiseConv2D(3, 2)),
    "depthwise multiplied": lambda: image(L.DepthwiseConv2D(3, depth_multiplier=2)),
    "separable": lambda: image(L.SeparableConv2D(4, 3, padding="same")),
    "transposed": lambda: image(L.Conv2DTranspose(4, 3, strides=2, padding="same")),
    "transposed valid": lambda: image(L.Conv2DTranspose(17, 3, strides=2), L.Conv2D(3, 2)),
    "pooling": lambda: image(
        L.Conv2D(4, 3), L.MaxPooling2D(), L.Conv2D(4, 2), L.AveragePooling2D(2)
    ),
    "upsampling": lambda: image(L.Conv2D(4, 3), L.UpSampling2D(), L.ZeroPadding2D(1)),
    "group norm": lambda: image(L.Conv2D(4, 3), L.GroupNormalization(2), L.ReLU()),
    "layer norm": lambda: image(L.Conv2D(4, 3), L.LayerNormalization(), L.PReLU()),
    "rms norm": lambda: sequence(L.RMSNormalization(), L.Flatten()),
    "unit norm": lambda: sequence(L.Dense(3), L.UnitNormalization(), L.Flatten()),
    "spectral": lambda: image(L.Conv2D(4, 3, activation="swish", use_bias=False)),
    "conv1d": lambda: sequence(L.Conv1D(4, 3, padding="causal"), L.GlobalMaxPooling1D()),
    "conv1d transposed": lambda: sequence(L.Conv1DTranspose(4, 3, strides=2), L.Flatten()),
    "separable conv1d": lambda: sequence(L.SeparableConv1D(4, 3), L.Flatten()),
    "time distributed": lambda: sequence(
        L.Reshape((6, 2, 2, 1)), L.TimeDistributed(L.Conv2D(3, 2)), L.Flatten()
    ),
    "einsum": lambda: sequence(
        L.EinsumDense("abc,cde->abde", (6, 2, 3), bias_axes="de"), L.Flatten()
    ),
    "embedding": lambda: text(L.Flatten()),
    "embedding masked": lambda: text(L.GlobalAveragePooling1D(), mask_zero=True),
    "tied": tied,
    "reversible": reversible,
    "siamese": siamese,
    "lstm": lambda: sequence(L.LSTM(4)),
    "gru": lambda: sequence(L.GRU(4, return_sequences=True), L.SimpleRNN(3)),
    "bidirectional": lambda: text(L.Bidirectional(L.LSTM(3)), mask_zero=True),
    "conv lstm": lambda: sequence(L.Reshape((6, 2, 2, 1)), L.ConvLSTM2D(2, 2), L.Flatten()),
    "attention": attention,
    "vit": vit,
    "wide resnet": wide_resnet,
    "several": several,
    "weighted": weighted,
    "frozen": frozen,
    "frozen batch norm": frozen_batch_norm,
    "penalised": penalised,
    "derived": lambda: sequence(Scale(), L.Flatten()),
    "loop": lambda: sequence(Loop(), L.Flatten()),
    "function in a function": lambda: sequence(Compiled(), L.Flatten()),
    "odd": lambda: sequence(Odd(), L.Flatten()),
    "conv3d": lambda: sequence(L.Reshape((2, 3, 2, 2)), L.Conv3D(3, 2), L.Flatten()),
}
