"""Which tensors of one example's loss depend on weights, and which on data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

WEIGHTS, DATA = 1, 2

_OF_SHAPES = {"Shape", "ShapeN", "Size", "Rank"}
_VIEWS = {"Identity", "Reshape", "ExpandDims", "Squeeze", "Cast", "Snapshot"}


@dataclass(frozen=True)
class Site:
    """An operation where a tensor that depends on weights alone meets data.

    Attributes:
        op: The operation.
        index: Which of its inputs depends on weights alone.
    """

    op: Any
    index: int

    @property
    def weight(self) -> Any:
        """The tensor that depends on weights alone."""
        return self.op.inputs[self.index]


class Flow:
    """The operations between weights, data and results, and what each depends on.

    An operation with an input that depends on data is taken to make all its outputs depend on it,
    and so is one that draws random numbers by itself; so nothing is missed.

    Args:
        outputs: Tensors of a graph.
        weights: Tensors of the same graph, the weights.
        data: Tensors of the same graph that depend on an example.

    Attributes:
        sites: The places where weights meet data, in the order they are computed.
        from_data: The tensors that depend on data.
    """

    def __init__(self, outputs: Sequence[Any], weights: Sequence[Any], data: Sequence[Any]) -> None:
        self._colours = {tensor.ref(): WEIGHTS for tensor in weights}
        self._colours |= {tensor.ref(): DATA for tensor in data}
        self._sources = set(self._colours)
        self.sites: list[Site] = []
        self.from_data: list[Any] = []
        for op in _in_order(outputs, self._sources):
            self._colour(op)

    def of(self, tensor: Any) -> int:
        """Return what a tensor depends on: 0, `WEIGHTS`, `DATA` or the sum of both."""
        return self._colours.get(tensor.ref(), 0)

    @property
    def has_lists(self) -> bool:
        """Whether data go through lists of tensors, as loops have them, which do not vectorise."""
        return any(tensor.dtype == tf.variant for tensor in self.from_data)

    def weights_behind(self, tensor: Any) -> list[Any]:
        """Return the weights that a tensor is computed from, and which depends on nothing else."""
        found, seen, stack = [], set(), [tensor]
        while stack:
            tensor = stack.pop()
            if tensor.ref() in seen or not self.of(tensor):
                continue
            seen.add(tensor.ref())
            before = [] if self._is_source(tensor) else list(tensor.op.inputs)
            if not before:
                found.append(tensor)
            stack.extend(before)
        return found

    def view(self, tensor: Any) -> tuple[Any, bool]:
        """Follow a tensor back through operations that only move its numbers.

        Returns:
            The tensor where that ends, and whether it is transposed on the way, as a matrix.
        """
        flipped = False
        while not self._is_source(tensor) and tensor.dtype.is_floating:
            op = tensor.op
            if op.type == "Transpose" and tensor.shape.rank == 2 and _swaps(op):
                flipped = not flipped
            elif op.type not in _VIEWS or flipped or not op.inputs[0].dtype.is_floating:
                break
            tensor = op.inputs[0]
        return tensor, flipped

    def _is_source(self, tensor: Any) -> bool:
        return tensor.ref() in self._sources

    def _colour(self, op: Any) -> None:
        before = [self.of(tensor) for tensor in op.inputs]
        if op.type in _OF_SHAPES and all(t.shape.is_fully_defined() for t in op.inputs):
            return
        colour = 0
        for each in before:
            colour |= each
        if op.op_def is not None and op.op_def.is_stateful and _draws(op):
            colour |= DATA
        for tensor in op.outputs:
            self._colours.setdefault(tensor.ref(), colour)
        if colour & DATA:
            self.from_data += op.outputs
            self.sites += [Site(op, i) for i, each in enumerate(before) if each == WEIGHTS]


def _swaps(op: Any) -> bool:
    order = tf.get_static_value(op.inputs[1])
    return order is not None and list(order) == [1, 0]


def _draws(op: Any) -> bool:
    """Whether an operation draws random numbers of its own."""
    return "seed2" in op.node_def.attr


def _in_order(outputs: Iterable[Any], sources: set[Any]) -> list[Any]:
    """Return the operations that lead from the sources to the outputs, inputs before users."""
    ordered: dict[Any, None] = {}
    stack = [(tensor.op, False) for tensor in outputs if tensor.ref() not in sources]
    entered = set()
    while stack:
        op, done = stack.pop()
        if done:
            ordered[op] = None
        elif op not in entered:
            entered.add(op)
            stack.append((op, True))
            stack += [(t.op, False) for t in op.inputs if t.ref() not in sources]
    return list(ordered)
