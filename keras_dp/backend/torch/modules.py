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
def unwritten(model: Any) -> Iterator[None]:
    """Refuse what is written into buffers and variables inside, and leave them as they were.

    Raises:
        NotPrivateError: naming the layers.

    Privacy:
        What a module computes from the examples and keeps in a buffer, like the averages of a
        batch normalisation, would be saved with the model and published. So would what is written
        into the tensor of a variable, beside `variable.assign`, which Keras' stateless calls see.
    """
    held = _kept(model)
    before = [(tensor._version, tensor.detach().clone()) for *_, tensor in held]
    try:
        yield
    finally:
        written = set()
        for (layer, holder, key, tensor), (version, value) in zip(held, before, strict=True):
            same = tensor._version == version and _equal(tensor, value)
            if same and (holder is None or holder[key] is tensor):
                continue
            written.add(layer)
            with torch.no_grad():
                tensor.copy_(value)
            if holder is not None:
                holder[key] = tensor
        if written:
            raise NotPrivateError(
                "PyTorch modules must not write into their buffers in training, nor layers into "
                "the tensors of variables: values computed from the training data would be "
                f"published. These do: {sorted(written)}. Replace what keeps statistics, such as "
                "`torch.nn.BatchNorm2d`, by `torch.nn.GroupNorm`."
            )


def _kept(model: Any) -> list[tuple[str, Any, str, torch.Tensor]]:
    """Return buffers and variables: whose they are, what holds a buffer, its name, the tensor."""
    modules = _modules(model)
    owners = {id(p): layer.name for layer, module in modules for p in module.parameters()}
    buffers = [
        (layer.name, module._buffers, name, buffer)
        for layer, module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    return buffers + [
        (owners.get(id(variable.value), variable.path), None, "", variable.value)
        for variable in model.variables
    ]


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


def check_trained(model: Any, loss: torch.Tensor) -> None:
    """Refuse layers with tensors that want a gradient and that no optimizer of Keras would move.

    Args:
        model: A Keras model.
        loss: Its loss, from a run in which no value of a variable wants a gradient.

    Raises:
        ValueError: naming the layers.
    """
    leaves = {id(leaf) for leaf in _leaves(loss)}
    names = [
        layer.name
        for layer in model._flatten_layers()
        if any(id(tensor) in leaves for tensor in _inside(vars(layer)))
    ]
    if names:
        raise ValueError(
            "What a layer is to learn must be in Keras variables. These layers hold tensors with "
            f"`requires_grad` that are none, so they would stay as they are: {names}. Make them by "
            "`self.add_weight`; set a `torch.nn.Module` as an attribute of the layer by itself, "
            "several in a `torch.nn.ModuleList`; or call `requires_grad_(False)`."
        )


def _leaves(loss: torch.Tensor) -> Iterator[torch.Tensor]:
    nodes: list[Any] = [loss.grad_fn]
    seen = {None}
    while nodes:
        node = nodes.pop()
        if node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
            if hasattr(node, "variable"):
                yield node.variable


def _inside(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of containers, and of the PyTorch modules in them that are no layers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, torch.nn.Module) and not isinstance(value, keras.layers.Layer):
        yield from value.parameters()
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _inside(part)
