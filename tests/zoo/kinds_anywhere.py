"""Kinds that work at any rank: dense layers, merges, regularizers, normalisation, custom layers."""

import keras

from tests.zoo import custom
from tests.zoo.drawing import DOMAINS, limit, to

EVERYWHERE = ("vector", "sequence", "image")
ALL = (*EVERYWHERE, "volume")


def dense(d, x):
    return d.layer("Dense", d.units(), use_bias=d.maybe(0.7), activation=d.activation())(x)


def dense_lora(d, x):
    layer = d.layer("Dense", d.units(), use_bias=d.maybe())
    x = layer(x)
    layer.enable_lora(rank=d.pick(1, 2))
    d.say("enable_lora()")
    return x


def einsum_dense(d, x):
    equation, shape, bias = d.pick(
        ("ab,bc->ac", (4,), "c"),
        ("ab,bcd->acd", (3, 2), "cd"),
        ("abc,cd->abd", (None, 4), "d"),
        ("abc,cde->abde", (None, 2, 3), "de"),
        ("abc,bcd->abd", (None, 3), "bd"),
        ("abc,bd->adc", (3, None), "d"),
        ("...x,xy->...y", (5,), "y"),
    )
    rank = x.ndim if equation.startswith("...") else equation.index(",")
    x = to(d, x, DOMAINS[rank])
    if None in shape:  # later kinds need to know every length
        lengths = dict(zip(equation, x.shape, strict=False))
        output = equation.partition("->")[2][1:]
        shape = tuple(n or lengths[a] for n, a in zip(shape, output, strict=True))
    bias = d.pick(None, bias)
    layer = d.layer("EinsumDense", equation, shape, bias_axes=bias, activation=d.activation())
    x = layer(x)
    if d.maybe(0.2) and equation == "abc,cd->abd":
        layer.enable_lora(rank=2)
        d.say("enable_lora()")
    return x


def gating(d, x):
    units = d.units()
    value = d.layer("Dense", units)(x)
    return d.layer("Multiply")([value, d.layer("Dense", units, activation="sigmoid")(x)])


def residual(d, x):
    inner = d.layer("Dense", d.units(), activation="gelu")(x)
    return d.layer("Add")([x, d.layer("Dense", x.shape[-1])(inner)])


def concatenate(d, x):
    return d.layer("Concatenate")([x, d.layer("Dense", 2, activation=d.activation())(x)])


def merge(d, x):
    how = d.pick("Average", "Maximum", "Minimum", "Subtract", "Multiply")
    return d.layer(how)([d.layer("Dense", x.shape[-1])(x), x])


def dot(d, x):
    x = to(d, x, "sequence")
    other = d.layer("Dense", d.units(), activation="tanh")(x)
    return d.layer("Dot", axes=1, normalize=d.maybe(0.3))([x, other])


def activation(d, x):
    x = d.layer("Dense", d.units())(x)
    name, settings = d.pick(
        ("ReLU", {"max_value": 3.0, "negative_slope": 0.1}),
        ("LeakyReLU", {"negative_slope": 0.2}),
        ("ELU", {"alpha": 0.7}),
        ("Softmax", {}),
    )
    other = d.layer("Activation", d.pick("gelu", "silu", "relu", "softmax", "mish", "selu"))
    return d.layer("Multiply")([d.layer(name, **settings)(x), other(x)])


def prelu(d, x):
    shared = list(range(1, x.ndim - 1)) if d.maybe() else None
    return d.layer("PReLU", shared_axes=shared)(d.layer("Dense", d.units())(x))


def siamese(d, x):
    layer = d.layer("Dense", d.units(), activation=d.activation())
    other = d.input(x.shape[1:])
    return d.layer(d.pick("Subtract", "Multiply", "Concatenate"))([layer(x), layer(other)])


def applied_twice(d, x):
    layer = d.layer("Dense", x.shape[-1], activation="tanh")
    return layer(layer(x))


def second_input(d, x):
    other = d.layer("Dense", d.units(), activation="tanh")(d.start("vector"))
    return d.layer("Concatenate")([d.layer("Dense", 3)(to(d, x, "vector")), other])


def second_output(d, x):
    """Draw the second output's loss later, with the others (see `heads`)."""
    d.outputs.append(x)
    return d.layer("Dense", d.units(), activation=d.activation())(x)


def spectral(d, x):
    name, settings = d.pick(("Dense", {}), ("Conv", {"kernel_size": 2, "padding": "same"}))
    if name == "Conv" and x.ndim > 2:
        name = f"Conv{x.ndim - 2}D"
    else:
        name, settings = "Dense", {}
    inner = d.layer(name, d.units(), **settings)
    return d.layer("SpectralNormalization", inner, power_iterations=d.pick(1, 2))(x)


def unit_norm(d, x):
    return d.layer("UnitNormalization")(d.layer("Dense", d.units())(x))


def activity_regularizer(d, x):
    if d.maybe():
        return d.layer("Dense", d.units(), activity_regularizer=d.pick("l1", "l2"))(x)
    return d.layer("ActivityRegularization", l1=0.01, l2=0.02)(x)


def weight_regularizer(d, x):
    regularizer = d.pick("l1", "l2", "orthogonal_regularizer")
    return d.layer("Dense", d.units(), kernel_regularizer=regularizer, bias_regularizer="l2")(x)


def dropout(d, x):
    name = d.pick("Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout")
    return d.layer(name, 0.3)(d.layer("Dense", d.units())(x))


def frozen(d, x):
    layer = d.layer("Dense", d.units(), activation="tanh", trainable=False)
    return d.layer("Dense", d.units())(layer(x))


def layer_norm(d, x):
    axis = d.pick(-1, -1, [*range(1, x.ndim)])
    if d.maybe(0.3):
        return d.layer("LayerNormalization", axis=axis, rms_scaling=True)(x)
    settings = {"center": d.maybe(0.8), "scale": d.maybe(0.8)}
    return d.layer("LayerNormalization", axis=axis, epsilon=0.1, **settings)(x)


def rms_norm(d, x):
    return d.layer("RMSNormalization", epsilon=0.1)(x)


def group_norm(d, x):
    x = d.layer("Dense", 6)(x)
    return d.layer("GroupNormalization", groups=d.pick(1, 2, 3, -1), epsilon=0.1)(x)


def frozen_batch_norm(d, x):
    return d.layer("BatchNormalization", trainable=False)(d.layer("Dense", d.units())(x))


def remat(d, x):
    with keras.RematScope(mode="full"):
        layer = d.layer("Dense", d.units(), activation="silu")
    d.say("RematScope")
    return layer(x)


def odd_shapes(d, x):
    return d.layer(custom.OddShapes)(limit(d, x))


def custom_layer(cls):
    return lambda d, x: d.layer(cls)(x)


KINDS = {
    "dense": (ALL, dense),
    "dense_lora": (ALL, dense_lora),
    "einsum_dense": (EVERYWHERE, einsum_dense),
    "gating": (EVERYWHERE, gating),
    "residual": (EVERYWHERE, residual),
    "concatenate": (EVERYWHERE, concatenate),
    "merge": (EVERYWHERE, merge),
    "dot": (("sequence",), dot),
    "activation": (EVERYWHERE, activation),
    "prelu": (EVERYWHERE, prelu),
    "siamese": (("vector", "sequence"), siamese),
    "applied_twice": (EVERYWHERE, applied_twice),
    "second_input": (("vector", "sequence"), second_input),
    "second_output": (EVERYWHERE, second_output),
    "spectral": (EVERYWHERE, spectral),
    "unit_norm": (EVERYWHERE, unit_norm),
    "activity_regularizer": (EVERYWHERE, activity_regularizer),
    "weight_regularizer": (EVERYWHERE, weight_regularizer),
    "dropout": (EVERYWHERE, dropout),
    "frozen": (EVERYWHERE, frozen),
    "layer_norm": (EVERYWHERE, layer_norm),
    "rms_norm": (EVERYWHERE, rms_norm),
    "group_norm": (EVERYWHERE, group_norm),
    "frozen_batch_norm": (ALL, frozen_batch_norm),
    "remat": (EVERYWHERE, remat),
    "scalar": (ALL, custom_layer(custom.Scale)),
    "odd_shapes": (EVERYWHERE, odd_shapes),
    "unused": (EVERYWHERE, custom_layer(custom.Unused)),
    "added_loss": (EVERYWHERE, custom_layer(custom.AddedLoss)),
    "weight_product": (EVERYWHERE, custom_layer(custom.WeightProduct)),
    "weight_norm": (EVERYWHERE, custom_layer(custom.WeightNorm)),
    "straight_through": (EVERYWHERE, custom_layer(custom.StraightThrough)),
    "scanned_layers": (EVERYWHERE, custom_layer(custom.ScannedLayers)),
    "data_branch": (EVERYWHERE, custom_layer(custom.DataBranch)),
    "mapped": (EVERYWHERE, custom_layer(custom.Mapped)),
    "fourier": (EVERYWHERE, custom_layer(custom.FourierFilter)),
    "experts": (EVERYWHERE, custom_layer(custom.Experts)),
    "bilinear": (EVERYWHERE, custom_layer(custom.Bilinear)),
}
