"""PyTorch modules inside Keras layers, which read their parameters and buffers by themselves.

Keras wraps a `torch.nn.Module` that a layer holds into `keras.layers.TorchModuleWrapper` and makes
variables of its parameters. A stateless call of the model does not reach them: here it does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import torch

from keras_dp.errors import NotPrivateError


def _modules(model: Any) -> list[tuple[Any, torch.nn.Module]]:
    return [
        (layer, module)
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.TorchModuleWrapper)
        for module in layer.module.modules()
    ]


@contextmanager
def reading(model: Any, mapping: list[tuple[Any, Any]]) -> Iterator[None]:
    """Let the model's modules read these values in place of their parameters.

    Args:
        model: A Keras model.
        mapping: Pairs of a variable and its value, as `keras.StatelessScope` takes them.
    """
    values = {id(variable.value): value for variable, value in mapping}
    changed = [
        (module._parameters, name, parameter)
        for _, module in _modules(model)
        for name, parameter in module._parameters.items()
        if id(parameter) in values
    ]
    try:
        for parameters, name, parameter in changed:
            parameters[name] = values[id(parameter)]
        yield
    finally:
        for parameters, name, parameter in changed:
            parameters[name] = parameter


@contextmanager
def buffers_unwritten(model: Any) -> Iterator[None]:
    """Refuse modules that write into their buffers inside, and leave the buffers as they were.

    Raises:
        NotPrivateError: naming the layers.

    Privacy:
        Buffers are no variables: what a module computes from the examples and keeps there, like
        the averages of a batch normalisation, would be saved with the model and published.
    """
    held = [
        (layer, buffer, buffer._version, buffer.clone())
        for layer, module in _modules(model)
        for buffer in module.buffers(recurse=False)
    ]
    try:
        yield
    finally:
        written = {
            layer.name: layer for layer, buffer, version, _ in held if buffer._version != version
        }
        with torch.no_grad():
            for layer, buffer, _, before in held:
                if layer.name in written:
                    buffer.copy_(before)
        if written:
            raise NotPrivateError(
                "PyTorch modules must not write into their buffers in training: values computed "
                f"from the training data would be published. These do: {sorted(written)}. Replace "
                "what keeps statistics, such as `torch.nn.BatchNorm2d`, by `torch.nn.GroupNorm`."
            )
