"""What a site gives to the gradient of a weight: its norms and its clipped sum.

A `Use` is one value that depends on weights, at one site, or at several that can be taken as one.
`G_i` is the gradient of example i's loss with respect to that value, of the value's shape.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from keras_dp.backend.torch.clipping.recording import Derived, Site, is_traced

WRITTEN_OUT = 2**26
"""Bytes of gradients, one an example, up to which they are kept for the sum."""

Gradient = torch.Tensor


class Use(ABC):
    """Where a value that depends on weights meets data.

    Attributes:
        derived: The value.
    """

    name: str
    derived: Derived

    @abstractmethod
    def gradients(self, rows: slice = slice(None)) -> torch.Tensor:
        """Return `G_i` of some examples, float32 of shape `(examples, ...)`."""

    def squares(self) -> torch.Tensor:
        """Return `|G_i|^2` of every example."""
        return torch.cat([squares(gradients) for _, gradients in self.parts()])

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return `sum_i factors_i G_i`, of the value's shape; a factor of 0 takes nothing."""
        total = torch.zeros(self.derived.value.shape, device=factors.device)
        for rows, gradients in self.parts():
            total = total + contracted(factors[rows], gradients)
        return total

    def parts(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield examples and their `G_i`, as many at a time as memory is kept for."""
        if self._keeps:
            if not hasattr(self, "_kept"):
                self._kept = self.gradients()
            yield slice(None), self._kept
            return
        step = max(1, WRITTEN_OUT // (4 * self._numel))
        for i in range(0, self.examples, step):
            yield (part := slice(i, i + step)), self.gradients(part)

    @property
    @abstractmethod
    def examples(self) -> int:
        """The number of examples."""

    @property
    def flops(self) -> int:
        """Operations for the norm of one example, beyond ordinary training."""
        return 2 * self._numel

    @property
    def bytes(self) -> int:
        """Memory that is kept for one example until the sum."""
        return 4 * self._numel if self._keeps else 0

    @property
    def _keeps(self) -> bool:
        return 4 * self._numel * self.examples <= WRITTEN_OUT

    @property
    def _numel(self) -> int:
        return self.derived.value.numel()


class Dense(Use):
    """A matrix product: `G_i = X_i' Y_i`, X of shape (T, in), Y the gradient of the result.

    Args:
        derived: The matrix, in whatever shape.
        x: Shape `(examples, T, in)`.
        y: Shape `(examples, T, out)`.
        inputs: The axes of the value that are summed over, in the order that x has them.
        outputs: Its other axes, in the order that y has them.
    """

    def __init__(
        self,
        derived: Derived,
        x: torch.Tensor,
        y: torch.Tensor,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
    ) -> None:
        self.derived, self.inputs, self.outputs = derived, inputs, outputs
        self.x, self.y = x.float(), y.float()
        positions, wide, high = x.shape[1], x.shape[2], y.shape[2]
        self.name = "outer, product"
        self.by_gram = positions == 1 or positions * (wide + high) < 1.5 * wide * high
        if positions > 1:
            self.name = "Gram matrices" if self.by_gram else "written out"

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self.x)

    def placed(self, matrices: torch.Tensor) -> torch.Tensor:
        """Return matrices `(in, out)`, one an example, in the shape of the value."""
        shape, axes = self.derived.value.shape, (*self.inputs, *self.outputs)
        whole = matrices.reshape(len(matrices), *(shape[axis] for axis in axes))
        return whole.permute(0, *(1 + axes.index(axis) for axis in range(len(axes))))

    def gradients(self, rows: slice = slice(None)) -> torch.Tensor:
        """Return `X_i' Y_i`."""
        return self.placed(torch.bmm(self.x[rows].transpose(1, 2), self.y[rows]))

    def squares(self) -> torch.Tensor:
        """Return `|X_i' Y_i|^2`, by `<X_i X_i', Y_i Y_i'>` where that is less work."""
        if self.x.shape[1] == 1:
            return squares(self.x) * squares(self.y)
        if not self.by_gram:
            return super().squares()
        grams = [torch.bmm(each, each.transpose(1, 2)) for each in (self.x, self.y)]
        return (grams[0] * grams[1]).sum((1, 2)).clamp(min=0)

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return `X' diag(factors) Y`."""
        if not self.by_gram and self._keeps:
            return super().weighted_sum(factors)
        x, y = used(factors, self.x), used(factors, self.y)
        scaled = x * factors.reshape(-1, 1, 1)
        return self.placed((scaled.flatten(0, 1).T @ y.flatten(0, 1))[None])[0]

    @property
    def channel_axis(self) -> int | None:
        """The axis of the value that is not summed over, if it is one."""
        return self.outputs[0] if len(self.outputs) == 1 else None

    @property
    def flops(self) -> int:
        """Operations for the norm of one example."""
        positions, inputs = self.x.shape[1:]
        outputs = self.y.shape[2]
        if positions == 1:
            return int(2 * (inputs + outputs))
        return int(2 * positions**2 * (inputs + outputs) if self.by_gram else 2 * inputs * outputs)

    @property
    def bytes(self) -> int:
        """Memory that is kept for one example."""
        kept = 4 * self._numel if not self.by_gram and self._keeps else 0
        return kept + 4 * (self.x[0].numel() + self.y[0].numel())


class Looked(Use):
    """A table of rows that are looked up: `G_i` is the sum of gradients at each row."""

    name = "rows of equal index"

    def __init__(self, derived: Derived, ids: torch.Tensor, y: torch.Tensor) -> None:
        self.derived = derived
        self.ids = ids.reshape(len(ids), -1)
        self.y = y.float().reshape(len(ids), self.ids.shape[1], -1)

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self.ids)

    def gradients(self, rows: slice = slice(None)) -> torch.Tensor:
        """Return the tables."""
        ids, y = self.ids[rows], self.y[rows]
        tables = y.new_zeros((len(ids), *self.derived.value.shape))
        return tables.scatter_add_(1, ids.unsqueeze(2).expand_as(y), y)

    def squares(self) -> torch.Tensor:
        """Return the squared norms: products of gradients at equal indices."""
        equal = self.ids.unsqueeze(1) == self.ids.unsqueeze(2)
        products = torch.bmm(self.y, self.y.transpose(1, 2))
        return torch.where(equal, products, 0.0).sum((1, 2)).clamp(min=0)

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the table of all examples."""
        y = used(factors, self.y) * factors.reshape(-1, 1, 1)
        total = torch.zeros(self.derived.value.shape, device=y.device)
        return total.index_add_(0, self.ids.flatten(), y.flatten(0, 1))

    @property
    def flops(self) -> int:
        """Operations for the norm of one example."""
        return int(2 * self.ids.shape[1] ** 2 * self.y.shape[2])

    @property
    def bytes(self) -> int:
        """Memory that is kept for one example."""
        return 4 * self.y[0].numel()


class WrittenOut(Use):
    """Gradients that are computed at once, one an example."""

    name = "written out"

    def __init__(self, derived: Derived, gradients: torch.Tensor) -> None:
        self.derived, self._all = derived, gradients.float()

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self._all)

    @property
    def _keeps(self) -> bool:
        return True

    def gradients(self, rows: slice = slice(None)) -> torch.Tensor:
        """Return them."""
        return self._all[rows]


@dataclass(frozen=True)
class Settings:
    """How a convolution is laid over its input, a number for each axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class Convolved(Use):
    """A kernel that is laid over an input: `G_i` is a product of patches and the gradient.

    Examples are taken as groups of channels of one convolution, whose weight gradient is theirs.

    Args:
        derived: The kernel, of shape `(out, in / groups, ...)`.
        x: The inputs, each as the call has it, of shape `(examples, in, ...)`.
        y: Gradients of the results, shape `(examples, out, ...)`.
        settings: How the kernel is laid over the input.
    """

    name = "patches"
    channel_axis = 0

    def __init__(
        self, derived: Derived, x: torch.Tensor, y: torch.Tensor, settings: Settings
    ) -> None:
        self.derived, self.settings = derived, settings
        self.x, self.y = x.float(), y.float()

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self.x)

    def gradients(self, rows: slice = slice(None)) -> torch.Tensor:
        """Return the kernels' gradients."""
        shape = tuple(self.derived.value.shape)
        x, y = (a[rows].contiguous() for a in (self.x, self.y))
        size = (len(x) * shape[0], *shape[1:])
        found = self._gradient(x.flatten(0, 1)[None], size, y.flatten(0, 1)[None], len(x))
        return found.reshape(len(x), *shape)

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the sum, by the weight gradient of all examples where none was kept."""
        if self._keeps:
            return super().weighted_sum(factors)
        x, y = used(factors, self.x), used(factors, self.y)
        scaled = y * factors.reshape(-1, *[1] * (y.ndim - 1))
        return self._gradient(x, tuple(self.derived.value.shape), scaled, 1)

    def _gradient(
        self, x: torch.Tensor, size: tuple[int, ...], y: torch.Tensor, examples: int
    ) -> torch.Tensor:
        compute: Any = _WEIGHT_GRADIENTS[len(size)]
        stride, padding, dilation, groups = astuple(self.settings)
        return torch.as_tensor(compute(x, size, y, stride, padding, dilation, examples * groups))

    @property
    def flops(self) -> int:
        """Operations for the norm of one example."""
        return 2 * self._numel


_WEIGHT_GRADIENTS = {
    3: conv1d_weight,
    4: conv2d_weight,
    5: conv3d_weight,
}
"""By the number of the kernel's axes."""


class Generic(Use):
    """Whatever the call is: its own gradient, of one example at a time."""

    name = "generic"

    def __init__(
        self, derived: Derived, site: Site, number: int, gradients: tuple[torch.Tensor, ...]
    ) -> None:
        self.derived, self.site, self.number, self.given = derived, site, number, gradients

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self.given[0])

    def gradients(self, rows: slice = slice(None)) -> torch.Tensor:
        """Return each example's gradient of the call."""
        weights = [each.value.detach() for each in self.site.weights]

        def of_one(data: Any, given: Any) -> torch.Tensor:
            def called(weight: torch.Tensor) -> Any:
                present = [weight if i == self.number else w for i, w in enumerate(weights)]
                result = self.site.call(present, data)
                flat = result if isinstance(result, (tuple, list)) else (result,)
                return tuple(t for t in flat if t.is_floating_point())

            pull_back = torch.func.vjp(called, weights[self.number])[1]
            return torch.as_tensor(pull_back(given)[0]).float()

        cut = [tuple(t.detach()[rows] for t in each) for each in (self.site.data, self.given)]
        return torch.vmap(of_one)(*cut)


def contracted(factors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return `sum_i factors_i rows_i`; a factor of 0 takes nothing, not even of NaN."""
    return torch.tensordot(factors, used(factors, rows), dims=1)


def used(factors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return rows with zeros in the place of those whose factor is 0."""
    if not is_traced() and bool((factors > 0).all()):
        return rows
    there = (factors > 0).reshape(-1, *[1] * (rows.ndim - 1))
    return torch.where(there, rows, 0.0)


def squares(rows: torch.Tensor) -> torch.Tensor:
    """Return the squared norm of each row."""
    return torch.linalg.vector_norm(rows.reshape(len(rows), -1), dim=1).square()
