"""Random settings of convolutions and of layers that change the number of positions."""


def _window(d, x):
    """Draw kernel, strides, dilation and a padding under which something is left."""
    rank = x.ndim - 2
    kernel = tuple(d.pick(1, 2, 3) for _ in range(rank))
    strides = dilation = (1,) * rank
    mode = d.pick("plain", "strided", "dilated")  # Keras refuses strides and dilation together
    if mode == "strided":
        strides = tuple(d.pick(1, 2) for _ in range(rank))
    if mode == "dilated":
        dilation = tuple(d.pick(1, 2) for _ in range(rank))
    reach = [(k - 1) * r + 1 for k, r in zip(kernel, dilation, strict=True)]
    fits = all(n >= r for n, r in zip(x.shape[1:-1], reach, strict=True))
    padding = d.pick("valid", "same") if fits else "same"
    return {
        "kernel_size": kernel,
        "strides": strides,
        "dilation_rate": dilation,
        "padding": padding,
    }


def convolution(d, x, name, groups=1, **overrides):
    settings = {**_window(d, x), "use_bias": d.maybe(0.7), **overrides}
    if groups > 1:
        x = d.layer("Dense", 2 * groups)(x)
        settings["groups"] = groups
    filters = groups * d.pick(1, 2) if groups > 1 else d.units()
    return d.layer(name, filters, activation=d.activation(), **settings)(x)


def separable(d, x, name, *filters):
    settings = {**_window(d, x), "use_bias": d.maybe(0.7), "depth_multiplier": d.pick(1, 2)}
    return d.layer(name, *filters, activation=d.activation(), **settings)(x)


def transposed(d, x, name):
    rank = x.ndim - 2
    settings = {
        "kernel_size": tuple(d.pick(2, 3) for _ in range(rank)),
        "strides": tuple(d.pick(1, 2) for _ in range(rank)),
        "padding": d.pick("valid", "same"),
        "use_bias": d.maybe(0.7),
    }
    return d.layer(name, d.units(), activation=d.activation(), **settings)(x)


def resize(d, x, how):
    rank = x.ndim - 2
    if how == "pool":
        name = d.pick("Average", "Max", "Adaptive")
        if name == "Adaptive":
            name = d.pick("AdaptiveAverage", "AdaptiveMax")
            return d.layer(f"{name}Pooling{rank}D", 2)(x)
        settings = {"strides": d.pick(1, 2), "padding": "same"}
        return d.layer(f"{name}Pooling{rank}D", d.pick(2, 3), **settings)(x)
    if how == "crop" and min(x.shape[1:-1]) > 2:
        return d.layer(f"Cropping{rank}D", d.pick((1, 0), (0, 1), (1, 1)) if rank == 1 else 1)(x)
    if how == "up":
        return d.layer(f"UpSampling{rank}D", 2)(x)
    return d.layer(f"ZeroPadding{rank}D", 1)(x)
