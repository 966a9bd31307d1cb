"""Kinds for images and volumes: convolution, recurrence of images, pooling and resizing."""

from tests.zoo import custom
from tests.zoo.convolutions import convolution, resize, separable, transposed

IMAGE = ("image",)
VOLUME = ("volume",)


def conv2d(d, x):
    return convolution(d, x, "Conv2D")


def grouped_conv(d, x):
    return convolution(d, x, f"Conv{x.ndim - 2}D", groups=d.pick(2, 3))


def conv_lora(d, x):
    layer = d.layer("Conv2D", d.units(), 2, padding="same", strides=d.pick(1, 2))
    x = layer(x)
    layer.enable_lora(rank=2)
    d.say("enable_lora()")
    return x


def depthwise2d(d, x):
    return separable(d, x, "DepthwiseConv2D")


def separable2d(d, x):
    return separable(d, x, "SeparableConv2D", d.units())


def transpose2d(d, x):
    return transposed(d, x, "Conv2DTranspose")


def standardised_conv(d, x):
    return d.layer(custom.StandardisedConv, d.units(), d.pick(1, 2), "same")(x)


def shared_conv(d, x):
    """Call one convolution on an image and on half of it."""
    layer = d.layer("Conv2D", 4, 2, padding="same", activation="tanh")
    whole = d.layer("GlobalAveragePooling2D")(layer(x))
    half = d.layer("GlobalMaxPooling2D")(layer(d.layer("AveragePooling2D", 2, padding="same")(x)))
    return d.layer("Concatenate")([whole, half])


def squeeze_and_excite(d, x):
    x = d.layer("Conv2D", 4, 3, padding="same", activation="silu")(x)
    pooled = d.layer("GlobalAveragePooling2D", keepdims=True)(x)
    gate = d.layer("Conv2D", 4, 1, activation="sigmoid")(d.layer("Dense", 2)(pooled))
    return d.layer("Multiply")([x, gate])


def residual_conv(d, x):
    inner = d.layer("Conv2D", d.units(), 3, padding="same", activation="relu")(x)
    inner = d.layer("GroupNormalization", 1, epsilon=0.1)(inner)
    return d.layer("Add")([x, d.layer("Conv2D", x.shape[-1], 1)(inner)])


def conv_lstm1d(d, x):
    settings = {"padding": "same", "return_sequences": d.maybe(), "dropout": d.pick(0.0, 0.2)}
    return d.layer("ConvLSTM1D", d.units(), 2, **settings)(x)


def pool2d(d, x):
    return resize(d, d.layer("Conv2D", d.units(), 2, padding="same")(x), "pool")


def resize2d(d, x):
    return resize(d, d.layer("Conv2D", d.units(), 1)(x), d.pick("up", "pad", "crop"))


def conv3d(d, x):
    return convolution(d, x, "Conv3D")


def transpose3d(d, x):
    return transposed(d, x, "Conv3DTranspose")


def conv_lstm2d(d, x):
    settings = {"padding": "same", "return_sequences": d.maybe(), "go_backwards": d.maybe()}
    return d.layer("ConvLSTM2D", d.units(), (2, 1), **settings)(x)


def time_distributed_conv(d, x):
    inner = d.layer("Conv2D", d.units(), 2, padding="same", activation="tanh")
    return d.layer("TimeDistributed", inner)(x)


def resize3d(d, x):
    return resize(d, d.layer("Dense", d.units())(x), d.pick("pool", "up", "pad", "crop"))


KINDS = {
    "conv2d": (IMAGE, conv2d),
    "grouped_conv": (("sequence", "image", "volume"), grouped_conv),
    "conv_lora": (IMAGE, conv_lora),
    "depthwise2d": (IMAGE, depthwise2d),
    "separable2d": (IMAGE, separable2d),
    "transpose2d": (IMAGE, transpose2d),
    "standardised_conv": (IMAGE, standardised_conv),
    "shared_conv": (IMAGE, shared_conv),
    "squeeze_and_excite": (IMAGE, squeeze_and_excite),
    "residual_conv": (IMAGE, residual_conv),
    "conv_lstm1d": (IMAGE, conv_lstm1d),
    "pool2d": (IMAGE, pool2d),
    "resize2d": (IMAGE, resize2d),
    "conv3d": (VOLUME, conv3d),
    "transpose3d": (VOLUME, transpose3d),
    "conv_lstm2d": (VOLUME, conv_lstm2d),
    "time_distributed_conv": (VOLUME, time_distributed_conv),
    "resize3d": (VOLUME, resize3d),
}
