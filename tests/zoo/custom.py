"""Layers that Keras does not have, each with one thing that a fast engine may get wrong."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("tests.zoo")
class Zeros(keras.initializers.Initializer):
    """Zeros by NumPy: JAX would compile an initializer for every shape, and all are redrawn."""

    def __call__(self, shape, dtype=None):
        return np.zeros(shape, dtype or "float32")


class Custom(keras.layers.Layer):
    """A layer with short words for its weights."""

    def weight(self, name, *shape):
        return self.add_weight(shape=shape, initializer=Zeros(), name=name)


class Scale(Custom):
    """A learnable scalar: its gradient is a number for each example."""

    def build(self, shape):
        self.temperature = self.weight("temperature")

    def call(self, x):
        return x * self.temperature


class OddShapes(Custom):
    """Parameters with axes of length 1, broadcast from both sides."""

    def build(self, shape):
        self.spread = self.weight("spread", 1, 1, 3)
        self.offset = self.weight("offset", 1, shape[-1], 1)
        self.single = self.weight("single", 1)

    def call(self, x):
        spread = ops.expand_dims(x, -1) * self.spread[0] + self.offset[0]
        return ops.logsumexp(spread, axis=-1) + self.single


class Unused(Custom):
    """Has a weight that does nothing: its gradient is zero and must still be there."""

    def build(self, shape):
        self.idle = self.weight("idle", 2, 3)

    def call(self, x):
        return x


class ClassToken(Custom):
    """Puts a learnable token before the sequence and adds a table of positions, as in ViT."""

    def build(self, shape):
        _, positions, channels = shape
        self.token = self.weight("token", 1, 1, channels)
        self.table = self.weight("table", positions + 1, channels)

    def call(self, x):
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1) + self.table


class TiedTable(Custom):
    """One table that embeds tokens and, transposed, gives the scores of the next token."""

    def __init__(self, vocabulary, channels, **kwargs):
        super().__init__(**kwargs)
        self.table = self.weight("table", vocabulary, channels)

    def call(self, x, reverse=False):
        if reverse:
            return ops.matmul(x, ops.transpose(self.table))
        return ops.take(self.table, x, axis=0)


class StandardisedConv(Custom):
    """A convolution whose kernel is standardised before use."""

    def __init__(self, filters, strides, padding, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.strides, self.padding = filters, strides, padding

    def build(self, shape):
        self.kernel = self.weight("kernel", 3, 2, shape[-1], self.filters)
        self.gain = self.weight("gain", self.filters)

    def call(self, x):
        mean, variance = ops.moments(
            ops.convert_to_tensor(self.kernel), axes=(0, 1, 2), keepdims=True
        )
        kernel = self.gain * (self.kernel - mean) / ops.sqrt(variance + 1e-2)
        return ops.conv(x, kernel, strides=self.strides, padding=self.padding)


class Square(Custom):
    """As many channels out as in; subclasses say what is done with the kernel."""

    kernels = ()

    def build(self, shape):
        channels = shape[-1]
        self.first = self.weight("kernel", *self.kernels, channels, channels)
        self.second = self.weight("kernel2", channels, channels)
        self.bias = self.weight("bias", channels)


class WeightProduct(Square):
    """The kernel is a product of two parameters."""

    def call(self, x):
        return x @ (self.first @ self.second) + self.bias


class WeightNorm(Square):
    """Direction and length of the kernel's columns are parameters of their own."""

    def call(self, x):
        length = ops.sqrt(ops.sum(ops.square(self.first), axis=0) + 1e-3)
        return x @ (self.bias * self.first / length) + ops.tanh(x @ self.second)


class StraightThrough(Square):
    """The kernel is rounded forwards but not backwards: a gradient of the user's own."""

    def call(self, x):
        @ops.custom_gradient
        def rounded(kernel):
            def grad(*args, upstream=None):
                return args[0] if upstream is None else upstream

            return ops.round(kernel * 8) / 8, grad

        return x @ rounded(self.first) + ops.tanh(x @ self.second + self.bias)


class ScannedLayers(Square):
    """Stacked kernels that a scan walks through, with one kernel shared by all steps."""

    kernels = (3,)

    def call(self, x):
        second, bias = ops.convert_to_tensor(self.second), ops.convert_to_tensor(self.bias)

        def step(carry, kernel):
            return ops.tanh(carry @ kernel + carry @ second + bias), ops.mean(carry)

        carry, means = ops.scan(step, x, ops.convert_to_tensor(self.first))
        return carry + ops.sum(means)


class DataBranch(Square):
    """Which kernel is used depends on the example."""

    def call(self, x):
        return ops.cond(
            ops.mean(x) > 0,
            lambda: x @ self.first + self.bias,
            lambda: ops.tanh(x @ self.second),
        )


class Mapped(Square):
    """A map over the channels of the output: the kernel's columns are the mapped axis."""

    def call(self, x):
        columns = ops.vectorized_map(
            lambda pair: x @ pair[0] + pair[1],
            (ops.transpose(self.first @ self.second), ops.convert_to_tensor(self.bias)),
        )
        return ops.moveaxis(columns, 0, -1)


class FourierFilter(Custom):
    """Real parameters between two Fourier transforms over the channels."""

    def build(self, shape):
        self.filter = self.weight("filter", shape[-1] // 2 + 1)

    def call(self, x):
        real, imaginary = ops.rfft(x)
        return ops.irfft((real * self.filter, imaginary * self.filter), fft_length=x.shape[-1])


class Experts(Square):
    """A mixture of experts: the two best of three, chosen for each position."""

    kernels = (3,)

    def build(self, shape):
        super().build(shape)
        self.gate = self.weight("gate", shape[-1], 3)

    def call(self, x):
        scores, chosen = ops.top_k(x @ self.gate, 2)
        weights = ops.sum(ops.one_hot(chosen, 3) * ops.softmax(scores)[..., None], axis=-2)
        values = ops.einsum("...c,ecd->...ed", x, self.first)
        return ops.einsum("...e,...ed->...d", weights, values) @ self.second + self.bias


class Bilinear(Custom):
    """The kernel meets the activations twice in one product."""

    def build(self, shape):
        self.form = self.weight("form", shape[-1], 2, shape[-1])

    def call(self, x):
        return ops.einsum("...i,ijk,...k->...j", ops.tanh(x), self.form, x)


class AddedLoss(Custom):
    """Adds a loss that depends on the example and on a parameter of its own."""

    def build(self, shape):
        self.centre = self.weight("centre", shape[-1])

    def call(self, x):
        self.add_loss(0.1 * ops.mean(ops.square(x - self.centre)))
        return x


class MinimalCell(Custom):
    """A recurrent cell of the user's own, with one gate."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.kernel = self.weight("kernel", shape[-1], 2 * self.units)
        self.recurrent = self.weight("recurrent", self.units, self.units)

    def call(self, inputs, states, training=False):
        (before,) = states
        gate, value = ops.split(inputs @ self.kernel, 2, axis=-1)
        gate = ops.sigmoid(gate)
        after = gate * before + (1 - gate) * ops.tanh(value + before @ self.recurrent)
        return after, [after]
