"""Where weights meet data in one run of a loss over many examples at once.

The loss is run for one example under `torch.vmap`, so examples cannot mix. Beside it a record is
kept of every call in which a value that depends on weights alone meets a value of the examples: a
site. There the weight is cut off from the gradient, and what the call read and gave is kept for
all examples. The gradient then flows back to the sites and no further, and every part of it that
was on its way to a weight has passed one: `Record.gradients` refuses any other run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.overrides import TorchFunctionMode

from keras_dp.backend.torch.clipping.attention import attention
from keras_dp.types import Tree

_TENSOR: Any = torch.Tensor
_METHODS = (
    *("t", "transpose", "swapaxes", "permute", "movedim", "reshape", "view", "flatten", "ravel"),
    *("unsqueeze", "squeeze", "contiguous", "to", "float", "clone"),
)
KEEP_NORMS = {
    _TENSOR.T.__get__,
    _TENSOR.mT.__get__,
    *(getattr(_TENSOR, name) for name in _METHODS),
    *(getattr(torch, name) for name in _METHODS if hasattr(torch, name)),
}
"""Calls whose result has the entries that they are given, in another order, shape or type."""


_SAME: dict[Any, Any] = {torch.moveaxis: torch.movedim, _TENSOR.moveaxis: torch.movedim}
"""Calls that `vmap` does not know, and their other name."""

_LOOKS = {_TENSOR.numpy, _TENSOR.__array__, _TENSOR.tolist, _TENSOR.item}
"""Calls by which Python sees values; PyTorch's tracing lets some of them pass."""

_PRODUCTS = {torch.matmul, torch.einsum, torch.nn.functional.linear, _TENSOR.matmul}
"""Calls that read their gradient more than once, so that it is better laid out before."""

_FASTER: dict[Any, Any] = {torch.nn.functional.scaled_dot_product_attention: attention}
"""Calls that `vmap` would make for one example after the other."""


class UnrecordedError(Exception):
    """A run that the record does not cover."""


@dataclass(frozen=True, eq=False)
class Derived:
    """A value that depends on weights alone.

    Attributes:
        value: The tensor.
        leaf: Number of the weight whose entries it has, in whatever order; `None` for all else.
    """

    value: torch.Tensor
    leaf: int | None


@dataclass(frozen=True)
class Weight:
    """Stands for a weight among the arguments of a call."""

    number: int


@dataclass(frozen=True)
class Data:
    """Stands for a value of the examples among the arguments of a call."""

    number: int


@dataclass(frozen=True, eq=False)
class Site:
    """A call in which weights meet data.

    Attributes:
        function: What is called.
        args: Its arguments, in which `Weight`, `Data` and plain values stand.
        kwargs: Its keyword arguments, likewise.
        weights: What depends on weights, in the order of the arguments.
        data: What the examples read, each of shape `(examples, ...)`.
        outputs: What the call gave, each of shape `(examples, ...)`.
        edges: Where the gradients of the outputs arrive, whatever is written into them later.
        versions: How often the data had been written into when they were read.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    weights: tuple[Derived, ...]
    data: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    edges: tuple[Any, ...]
    versions: tuple[int, ...]

    def call(self, weights: Any, data: Any) -> Any:
        """Make the call again for one example."""

        def put(value: Any) -> Any:
            if isinstance(value, Weight):
                return weights[value.number]
            return data[value.number] if isinstance(value, Data) else value

        return self.function(*mapped(put, self.args), **mapped(put, self.kwargs))


class Record(TorchFunctionMode):
    """The sites of a run, in the order of the calls.

    Args:
        weights: The trainable weights, leaves of the gradient.

    Attributes:
        sites: The sites.
        bytes: Memory of all results for one example.
        weights: The weights.
        anchor: A value of the examples.
    """

    anchor: torch.Tensor

    def __init__(self, weights: list[torch.Tensor]) -> None:
        super().__init__()
        self.sites: list[Site] = []
        self.bytes = 0
        self.weights = weights
        self._derived = {id(w): Derived(w, i) for i, w in enumerate(weights)}
        self._cut: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a call of PyTorch, and keep it if it is a site."""
        args, kwargs = mapped(_valued, args), mapped(_valued, kwargs or {})
        func = _SAME.get(func, func)
        if func in _LOOKS and is_traced():
            raise UnrecordedError("a loss that looks at values, which a program would keep")
        if "memory_format" in kwargs:  # what Keras asks of it for speed, `vmap` cannot do
            if func is _TENSOR.contiguous:
                return args[0]
            if func is _TENSOR.is_contiguous:
                return True
            kwargs = {k: v for k, v in kwargs.items() if k != "memory_format"}
        tensors = tensors_of((args, kwargs))
        if not any(id(tensor) in self._derived for tensor in tensors):
            result = _FASTER.get(func, func)(*args, **kwargs)
            self._count(result)
            return result
        return self._with_weights(func, args, kwargs, tensors)

    def gradients(self, losses: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """Return for each site the gradients of the examples' losses with respect to its outputs.

        Sites that act on no loss are dropped.

        Raises:
            UnrecordedError: when a gradient reaches a weight by another way than a site.

        Privacy:
            A weight that acted on the loss unseen would be missing from the norms, and one
            example could move the sum by more than the clip norm. The weights are leaves of the
            same gradient, so such a way shows as a gradient that is there.
        """
        for site in self.sites:
            if site.versions != tuple(tensor._version for tensor in site.data):
                raise UnrecordedError("what a call with a weight read was written into later")
        edges = [edge for site in self.sites for edge in site.edges]
        found: tuple[Any, ...] = (None,) * (len(edges) + len(self.weights))
        if losses.requires_grad:
            found = torch.autograd.grad(losses.sum(), [*edges, *self.weights], allow_unused=True)
        if any(gradient is not None for gradient in found[len(edges) :]):
            raise UnrecordedError("a weight acts on the loss without having met data")
        rest = iter(found)
        given = [tuple(next(rest) for _ in site.edges) for site in self.sites]
        kept = [i for i, each in enumerate(given) if any(g is not None for g in each)]
        self.sites = [self.sites[i] for i in kept]
        return [
            tuple(map(_or_zeros, given[i], site.outputs))
            for i, site in zip(kept, self.sites, strict=True)
        ]

    def _with_weights(self, func: Any, args: Any, kwargs: Any, tensors: Any) -> Any:
        weights: dict[int, Derived] = {}
        data: dict[int, torch.Tensor] = {}
        captured: dict[int, torch.Tensor] = {}
        for tensor in tensors:
            if id(tensor) in self._derived:
                weights.setdefault(id(tensor), self._derived[id(tensor)])
            elif id(tensor) not in captured:
                captured[id(tensor)], seen = capture(tensor)
                if seen is not None:
                    data[id(tensor)] = seen
        if not data and func in _PRODUCTS and len(captured) == 1:
            ((key, row),) = captured.items()
            if row.numel() == row.shape[-1]:  # the first state of a recurrent layer, for one
                captured[key], data[key] = _applied(_Spread, row, self.anchor)
        if not data:
            return self._of_weights_alone(func, args, kwargs, weights)
        if _writes(func):
            return self._written(func, args, kwargs)
        numbers: dict[int, Any] = {key: Weight(i) for i, key in enumerate(weights)}
        numbers |= {key: Data(i) for i, key in enumerate(data)}

        def live(value: Any) -> Any:
            if id(value) in weights:
                return self._cut.setdefault(id(value), value.detach())
            return captured.get(id(value), value)

        def standing(value: Any) -> Any:
            return numbers.get(id(value), value) if isinstance(value, _TENSOR) else value

        result = func(*mapped(live, args), **mapped(live, kwargs))
        self._count(result)
        outputs: list[torch.Tensor] = []
        kind = _ProductTap if func in _PRODUCTS else _Tap
        tapped = mapped(lambda value: self._tapped(kind, value, outputs), result)
        if outputs:
            call = func, mapped(standing, args), mapped(standing, kwargs)
            used, read = tuple(weights.values()), tuple(data.values())
            edges = tuple(torch.autograd.graph.get_gradient_edge(each) for each in outputs)
            versions = tuple(tensor._version for tensor in read)
            self.sites.append(Site(*call, used, read, tuple(outputs), edges, versions))
        return tapped

    def _written(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Make a call that writes into what it is given as one that does not, and then write."""
        name = func.__name__
        plain = getattr(_TENSOR, name[:-1], None)
        if plain is None or not args or id(args[0]) in self._derived:
            raise UnrecordedError(f"{name} writes into a value that it is given")
        call = (args[0].clone(), *args[1:])
        result = self._with_weights(plain, call, kwargs, tensors_of((call, kwargs)))
        return args[0].copy_(result)

    def _of_weights_alone(self, func: Any, args: Any, kwargs: Any, weights: Any) -> Any:
        result = func(*args, **kwargs)
        leaf = None
        if func in KEEP_NORMS and len(weights) == 1:
            (leaf,) = (derived.leaf for derived in weights.values())
        for tensor in tensors_of(result):
            if tensor.requires_grad and (_writes(func) or id(tensor) not in self._derived):
                self._derived[id(tensor)] = Derived(tensor, leaf)
        return result

    def _tapped(self, kind: Any, value: Any, outputs: list[torch.Tensor]) -> Any:
        if not isinstance(value, _TENSOR) or not value.is_floating_point():
            return value
        result, seen = _applied(kind, value)
        if seen is None:
            raise UnrecordedError("the result of a call with data does not depend on them")
        outputs.append(seen)
        return result

    def _count(self, result: Any) -> None:
        if isinstance(result, _TENSOR):
            self.bytes += result.numel() * result.element_size()


def _writes(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _or_zeros(gradient: torch.Tensor | None, output: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(output) if gradient is None else gradient


def _valued(value: Any) -> Any:
    """Return the tensor of a Keras variable, which PyTorch would ask for it unseen."""
    return value.value if isinstance(value, keras.Variable) else value


class _Capture(torch.autograd.Function):
    """Hands on what it is given, and keeps it as it is for all examples."""

    seen: torch.Tensor | None = None

    @staticmethod
    def forward(value: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        """Return a value that is the same for all examples."""
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient."""
        return gradient

    @staticmethod
    def vmap(info: Any, in_dims: Any, value: torch.Tensor, *more: torch.Tensor) -> Any:
        """Return the values of all examples."""
        _Capture.seen = _of_examples(value, in_dims[0])
        return _Capture.seen, 0


class _Tap(_Capture):
    """The same, for a value whose gradient is wanted."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, value: torch.Tensor, *more: torch.Tensor) -> Any:
        """Return the values of all examples, as a leaf of the gradient if they are none yet."""
        seen = _of_examples(value, in_dims[0])
        _Capture.seen = seen if seen.requires_grad else seen.detach().requires_grad_()
        return _Capture.seen, 0


class _ProductTap(_Tap):
    """The same, for a value whose gradient is wanted contiguous."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, value: torch.Tensor, *more: torch.Tensor) -> Any:
        """Return a view, so that its gradient is laid out before it is that of the value."""
        seen, axis = _Tap.vmap(info, in_dims, value)
        result = seen.view_as(seen)
        result.register_hook(_TENSOR.contiguous)
        return result, axis


class _Spread(_Capture):
    """Hands a value that all examples share to each of them."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, value: torch.Tensor, *more: torch.Tensor) -> Any:
        """Return the value for all examples."""
        _Capture.seen = value.expand(info.batch_size, *value.shape)
        return _Capture.seen, 0


def _of_examples(value: torch.Tensor, axis: int) -> torch.Tensor:
    seen = value.movedim(axis, 0) if axis else value
    try:
        seen.data_ptr()
    except RuntimeError as error:
        raise UnrecordedError("a loss that calls vmap itself") from error
    return seen


def capture(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return a value as it goes on, and as it is for all examples; `None` if it depends on none."""
    return _applied(_Capture, value)


def _applied(kind: Any, *values: Any) -> tuple[torch.Tensor, Any]:
    _Capture.seen = None
    result = kind.apply(*values)
    seen, _Capture.seen = _Capture.seen, None
    return result, seen


def is_traced() -> bool:
    """Whether a program is being traced, which knows no values."""
    return get_proxy_mode() is not None


def tensors_of(tree: Tree) -> list[torch.Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries."""
    if isinstance(tree, _TENSOR):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree
    if not isinstance(tree, (tuple, list, dict)):
        return []
    return [tensor for part in parts for tensor in tensors_of(part)]


def mapped(function: Callable[[Any], Any], tree: Tree) -> Any:
    """Apply a function to what is in nested tuples, lists and dictionaries."""
    if isinstance(tree, torch.Size):
        return tree
    if isinstance(tree, (tuple, list)):
        values = [mapped(function, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    if isinstance(tree, dict):
        return {key: mapped(function, value) for key, value in tree.items()}
    return function(tree)
