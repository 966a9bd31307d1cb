"""How one example's loss becomes operations that can be seen and differentiated."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

OWN_GRADIENT = "KerasDPConv2D"
"""Name of the gradient that convolutions get."""


@contextlib.contextmanager
def open_functions() -> Iterator[None]:
    """Put the operations of functions into the graph, and let grouped convolutions be derived."""
    graph, eagerly = tf.compat.v1.get_default_graph(), tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        with graph.gradient_override_map({"Conv2D": OWN_GRADIENT}):
            yield
    finally:
        tf.config.run_functions_eagerly(eagerly)


@tf.RegisterGradient(OWN_GRADIENT)
def _conv2d_gradient(op: Any, cotangent: Any) -> list[Any]:
    """Differentiate a convolution group by group, since on the CPU TensorFlow has no other way."""
    image, kernel = op.inputs
    axis = 3 if op.get_attr("data_format") == b"NHWC" else 1
    groups = int(image.shape[axis]) // int(kernel.shape[2])
    settings = {name: op.get_attr(name) for name in ("strides", "dilations", "explicit_paddings")}
    settings |= {name: op.get_attr(name).decode() for name in ("padding", "data_format")}
    parts = zip(
        tf.split(image, groups, axis),
        tf.split(kernel, groups, 3),
        tf.split(cotangent, groups, axis),
        strict=True,
    )
    images, kernels = [], []
    for x, w, g in parts:
        images.append(
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=w, out_backprop=g, **settings
            )
        )
        kernels.append(
            tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=tf.shape(w), out_backprop=g, **settings
            )
        )
    return [tf.concat(images, axis), tf.concat(kernels, 3)]


def vectorised(function: Callable[[list[Any]], list[Any]], elements: list[Any]) -> list[Any]:
    """Compute `function` of every element, with the shapes that are known of one."""
    shapes: list[Any] = []

    def noted(each: list[Any]) -> list[Any]:
        results = function(each)
        shapes.extend(result.shape for result in results)
        return results

    stacked = tf.vectorized_map(noted, elements, warn=False)
    size = elements[0].shape[0]
    return [
        tf.ensure_shape(array, (size, *shape)) if shape.rank is not None else array
        for array, shape in zip(stacked, shapes, strict=True)
    ]
