"""Which rule covers which call; what none covers is computed by its own derivative.

A call is covered only in the form that its rule was written for. To speed up another one, add it
to `_RULES`, with a function that returns its uses, or `None` for a form that it leaves alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as it is called everywhere

from keras_dp.backend.torch.clipping.recording import Data, Derived, Site, Weight
from keras_dp.backend.torch.clipping.rules import (
    Convolved,
    Dense,
    Generic,
    Looked,
    Settings,
    Use,
    WrittenOut,
)


def uses_of(site: Site, gradients: tuple[torch.Tensor, ...]) -> list[Use]:
    """Return what a site gives to each of its weights, by the rule that covers the call."""
    made = _RULES.get(site.function, _nothing)(site, gradients)
    if made is not None:
        return made
    return [Generic(w, site, i, gradients) for i, w in enumerate(site.weights)]


def _nothing(site: Site, gradients: Any) -> list[Use] | None:
    return None


def _matmul(site: Site, gradients: Any) -> list[Use] | None:
    if site.args[:2] != (Data(0), Weight(0)) or site.kwargs or len(site.args) > 2:
        return None
    return _dense(site, gradients, 0, 1)


def _linear(site: Site, gradients: Any) -> list[Use] | None:
    if site.args[:2] != (Data(0), Weight(0)) or site.kwargs or len(site.data) > 1:
        return None
    made = _dense(site, gradients, 1, 0)
    if made is None or len(site.weights) == 1:
        return made
    return [*made, _summed(site.weights[1], gradients[0])]


def _dense(site: Site, gradients: Any, inputs: int, outputs: int) -> list[Use] | None:
    (derived, *_), x, y = site.weights, site.data[0], gradients[0]
    if derived.value.ndim != 2 or x.ndim < 2:
        return None
    return [Dense(derived, _positions(x), _positions(y), (inputs,), (outputs,))]


def _positions(rows: torch.Tensor) -> torch.Tensor:
    return rows.reshape(len(rows), -1, rows.shape[-1])


def _einsum(site: Site, gradients: Any) -> list[Use] | None:
    """Cover an equation in which every axis of the weight is summed over or goes to the result."""
    equation, *operands = site.args
    if operands not in ([Data(0), Weight(0)], [Weight(0), Data(0)]) or site.kwargs:
        return None
    left, _, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    x, w = terms if operands[0] == Data(0) else reversed(terms)
    inputs = [a for a in w if a in x and a not in result]
    outputs = [a for a in w if a in result and a not in x]
    others = [a for a in x if a not in w]
    simple = len(inputs) + len(outputs) == len(w) and set(others) <= set(result)
    if not simple or "." in equation or len({*x}) != len(x) or len({*w}) != len(w):
        return None
    if sorted(result) != sorted([*others, *outputs]):
        return None

    def shaped(rows: torch.Tensor, axes: str, last: list[str]) -> torch.Tensor:
        order = [0, *(1 + axes.index(a) for a in (*others, *last))]
        size = math.prod(rows.shape[1 + axes.index(a)] for a in last)
        return rows.permute(order).reshape(len(rows), -1, size)

    x_rows, y_rows = shaped(site.data[0], x, inputs), shaped(gradients[0], result, outputs)
    axes = (tuple(w.index(a) for a in part) for part in (inputs, outputs))
    return [Dense(site.weights[0], x_rows, y_rows, *axes)]


def _add(site: Site, gradients: Any) -> list[Use] | None:
    if site.kwargs or len(site.weights) != 1 or len(site.args) != 2:
        return None
    return [_summed(site.weights[0], gradients[0])]


def _multiply(site: Site, gradients: Any) -> list[Use] | None:
    if site.kwargs or len(site.weights) != 1 or len(site.data) != 1:
        return None
    derived = site.weights[0]
    ndim = max(site.data[0].ndim - 1, derived.value.ndim)
    missing = ndim - (site.data[0].ndim - 1)
    x = site.data[0].reshape(len(site.data[0]), *[1] * missing, *site.data[0].shape[1:])
    return [_summed(derived, gradients[0] * x.detach())]


def _summed(derived: Derived, gradient: torch.Tensor) -> Use:
    """Return the use whose gradients are summed to the value's shape, as it was broadcast."""
    shape = derived.value.shape
    extra = gradient.ndim - 1 - len(shape)
    gradient = gradient.float()
    if extra:
        gradient = gradient.sum(tuple(range(1, 1 + extra)))
    axes = [1 + i for i, n in enumerate(shape) if n == 1 and gradient.shape[1 + i] != 1]
    return WrittenOut(derived, gradient.sum(axes, keepdim=True) if axes else gradient)


def _embedding(site: Site, gradients: Any) -> list[Use] | None:
    names = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
    given = {**dict(zip(names, site.args[2:], strict=False)), **site.kwargs}
    given.pop("norm_type", None)  # of no effect without `max_norm`
    plain = all(value in (None, False) for value in given.values())
    if site.args[:2] != (Data(0), Weight(0)) or not plain or site.weights[0].value.ndim != 2:
        return None
    return [Looked(site.weights[0], site.data[0], gradients[0])]


def _convolution(site: Site, gradients: Any) -> list[Use] | None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = {**dict(zip(names, site.args, strict=False)), **site.kwargs}
    x, y, kernel = site.data[0], gradients[0], site.weights[0]
    axes = kernel.value.ndim - 2
    padding = given.get("padding", 0)
    if given["input"] != Data(0) or given["weight"] != Weight(0) or isinstance(padding, str):
        return None
    if x.ndim != axes + 3 or x.shape[1] != 1 or len(site.data) > 1:
        return None
    settings = Settings(
        _each(given.get("stride", 1), axes),
        _each(padding, axes),
        _each(given.get("dilation", 1), axes),
        int(given.get("groups", 1)),
    )
    made = [_laid_over(kernel, x[:, 0].detach(), y[:, 0], settings)]
    if given.get("bias") is not None and len(site.weights) == 2:
        bias = y.float().flatten(3).sum((1, 3))
        made.append(WrittenOut(site.weights[1], bias))
    return made if len(made) == len(site.weights) else None


def _laid_over(kernel: Derived, x: torch.Tensor, y: torch.Tensor, settings: Settings) -> Use:
    """Return a product with patches of the input, where that takes less work."""
    shape = tuple(kernel.value.shape)
    places, positions = math.prod(shape[2:]), math.prod(y.shape[2:])
    inputs, outputs = places * shape[1], shape[0]
    few = places == 1 or positions * (inputs + outputs) < 1.5 * inputs * outputs
    if settings.groups > 1 or len(shape) > 4 or not few:
        return Convolved(kernel, x, y, settings)
    rows = _patches(x, shape[2:], settings), y.float().flatten(2).transpose(1, 2)
    return Dense(kernel, *rows, tuple(range(1, len(shape))), (0,))


def _patches(x: torch.Tensor, kernel: tuple[int, ...], settings: Settings) -> torch.Tensor:
    """Return what the kernel meets at each position, shape `(examples, positions, inputs)`."""
    if math.prod(kernel) == 1 and not any(settings.padding):
        steps: Any = (..., *(slice(None, None, stride) for stride in settings.stride))
        return x[steps].flatten(2).transpose(1, 2)
    one = [1] * (2 - len(kernel))  # an axis more for those that have one

    def two(values: tuple[int, ...], missing: int) -> tuple[int, ...]:
        return (*[missing] * len(one), *values)

    return F.unfold(
        x.reshape(*x.shape[:2], *one, *x.shape[2:]).float(),
        (*one, *kernel),
        two(settings.dilation, 1),
        two(settings.padding, 0),
        two(settings.stride, 1),
    ).transpose(1, 2)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    values: Sequence[int] = value if isinstance(value, (tuple, list)) else [value] * axes
    return tuple(int(v) for v in (values if len(values) == axes else [values[0]] * axes))


_T: Any = torch.Tensor
_RULES: dict[Any, Any] = {
    **dict.fromkeys((torch.matmul, torch.mm, _T.matmul, _T.mm, _T.__matmul__), _matmul),
    F.linear: _linear,
    torch.einsum: _einsum,
    **dict.fromkeys((torch.add, _T.add, _T.__add__, _T.__radd__), _add),
    **dict.fromkeys((torch.mul, torch.multiply, _T.mul, _T.__mul__, _T.__rmul__), _multiply),
    F.embedding: _embedding,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _convolution),
}
