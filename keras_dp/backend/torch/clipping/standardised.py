"""Kernels that are standardised before use, in closed form: no gradient is taken back to them.

For one output channel, let `1` be the kernel of ones and `d` the kernel in use less its mean; `D`
is an example's gradient there and `P` the projection on the span of both. Where the kernel in use
is `a k + b`, with `a` and `b` made of sums of the entries of `k` and of their squares, the gradient
of `k` is

`a (D - P D) + <1, D> / |1|^2 e_1 + <d, D> / |d|^2 e_d`,

with `e_1` and `e_d` the gradients for `D = 1` and `D = d`, which lie in the same span. So `|D|` and
two products tell the norm. A weight with one number a channel has the last two terms alone.

Whether a kernel has the form is seen from the derivative itself: it is taken at 1, at `d` and at
random numbers, for which the form must give the same. Another derivative than the form's would have
to agree with it at almost all numbers.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch

from keras_dp.backend.torch.clipping.recording import is_traced
from keras_dp.backend.torch.clipping.rules import Convolved, Dense, Use

TOLERANCE = 1e-5
"""Greatest difference from the form, as a part of the terms: some roundings of float32."""

LEAST = 1e-6
"""Least part of `|aD|^2` that is kept off the span, where rounding could leave nothing of it."""


@dataclass(frozen=True)
class Form:
    """The derivative of a kernel in use; C channels of n entries.

    Attributes:
        kernel: The number of the weight that is standardised.
        basis: `1` and `d`, shape `(C, n, 2)`.
        sizes: Their squared norms, shape `(C, 2)`.
        scale: `a`, shape `(C,)`.
        images: The parts of `e_1` and `e_d` along `1` and `d`, shape `(C, 2, 2)`.
        others: For other weights, by number, their derivatives at `1` and `d`, shape `(C, 2)`.
    """

    kernel: int
    basis: torch.Tensor
    sizes: torch.Tensor
    scale: torch.Tensor
    images: torch.Tensor
    others: dict[int, torch.Tensor]


class Standardised(Use):
    """A kernel whose norms have the closed form.

    Args:
        use: Where the standardised kernel meets data.
        form: Its form.
    """

    def __init__(self, use: Dense | Convolved, form: Form) -> None:
        self.derived, self.use, self.form = use.derived, use, form
        self.name = f"{use.name}, standardised"
        by_gram = isinstance(use, Dense) and use.by_gram
        self._whole, products = (_by_gram if by_gram else _written)(use, form)
        self._parts = products / form.sizes

    @property
    def examples(self) -> int:
        """The number of examples."""
        return self.use.examples

    def gradients(self, rows: slice = slice(None)) -> torch.Tensor:
        """Return `G_i` where the kernel is used."""
        return self.use.gradients(rows)

    def squares(self) -> torch.Tensor:
        """Return the squared norms of the gradients of the weight that is standardised."""
        sizes, scale = self.form.sizes, self.form.scale
        within = (self._parts.square() * sizes).sum(2) @ scale.square()
        images = torch.einsum("bcj,cjk->bck", self._parts, self.form.images)
        apart = torch.maximum(self._whole - within, LEAST * self._whole)
        return apart + (images.square() * sizes).sum((1, 2))

    def of_others(self, weights: list[torch.Tensor]) -> list[torch.Tensor | None]:
        """Return every example's gradients of the weights with one number a channel."""
        found: list[torch.Tensor | None] = [None] * len(weights)
        for i, images in self.form.others.items():
            found[i] = (self._parts * images).sum(2).reshape(-1, *weights[i].shape)
        return found

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the sum where the kernel is used."""
        return self.use.weighted_sum(factors)

    @property
    def flops(self) -> int:
        """Operations for the norm of one example."""
        return self.use.flops

    @property
    def bytes(self) -> int:
        """Memory that is kept for one example."""
        return self.use.bytes


def _by_gram(use: Any, form: Form) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `|aD|^2`, shape `(B,)`, and the products with `1` and `d`, shape `(B, C, 2)`."""
    whole = Dense(use.derived, use.x, use.y * form.scale, use.inputs, use.outputs).squares()
    along = use.x @ form.basis[:, :, 1].T
    ones = torch.einsum("bt,btc->bc", use.x.sum(2), use.y)
    return whole, torch.stack([ones, (along * use.y).sum(1)], 2)


def _written(use: Any, form: Form) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same, from gradients that are written out."""
    wholes, products = [], []
    for _, gradients in use.parts():
        rows = gradients.movedim(1 + use.channel_axis, 1).flatten(2)
        wholes.append(torch.linalg.vector_norm(rows, dim=2).square() @ form.scale.square())
        products.append(torch.bmm(rows.transpose(0, 1), form.basis).transpose(0, 1))
    return torch.cat(wholes), torch.cat(products)


def standardised(uses: list[Use], weights: list[torch.Tensor]) -> Standardised | None:
    """Return the use of a value that is a standardised kernel in closed form, if it has one.

    Args:
        uses: Where a value that was computed from weights meets data.
        weights: The weights.
    """
    (use, *more) = uses
    if more or is_traced() or not isinstance(use, (Dense, Convolved)):
        return None
    value, axis = use.derived.value, use.channel_axis
    if axis is None or value.dtype != torch.float32 or value.numel() == value.shape[axis]:
        return None
    with torch.no_grad():
        form = _form(value, axis, weights)
    return None if form is None else Standardised(use, form)


class _Probe:
    """Where the derivative of a kernel in use is looked at: at 1, `d` and random numbers.

    Attributes:
        basis: `1` and `d`, shape `(C, n, 2)`.
        sizes: Their squared norms, shape `(C, 2)`.
        parts: The parts of the random numbers along them, shape `(C, 2)`.
        apart: What is left of the random numbers, shape `(C, n)`.
        points: The three, shape `(3, C, n)`.
        norms: Their norms, shape `(3, C)`.
    """

    def __init__(self, kernel: torch.Tensor) -> None:
        generator = torch.Generator(kernel.device).manual_seed(0)
        drawn = torch.randn(kernel.shape, generator=generator, device=kernel.device)
        centred = kernel - kernel.mean(1, keepdim=True)
        self.points = torch.stack([torch.ones_like(kernel), centred, drawn])
        self.norms = torch.linalg.vector_norm(self.points, dim=2)
        self.basis = self.points[:2].permute(1, 2, 0)
        sizes = self.norms[:2].T.square()
        self.sizes = torch.where(sizes > 0, sizes, 1.0)
        self.parts = torch.einsum("cn,cnj->cj", drawn, self.basis) / self.sizes
        self.apart = drawn - torch.einsum("cj,cnj->cn", self.parts, self.basis)


def _form(value: torch.Tensor, axis: int, weights: list[torch.Tensor]) -> Form | None:
    """Return the form of a kernel in use if its derivative at the probe has it."""
    moved = value.detach().movedim(axis, 0)
    probe = _Probe(moved.flatten(1))
    given = [point.reshape(moved.shape).movedim(0, axis) for point in probe.points]
    found = [
        torch.autograd.grad(value, weights, each, retain_graph=True, allow_unused=True)
        for each in given
    ]
    read = {i: each for i, each in enumerate(zip(*found, strict=True)) if each[0] is not None}
    kernels = [i for i, each in read.items() if each[0].shape.numel() == value.numel()]
    if len(kernels) != 1:
        return None
    fit = _fit(read.pop(kernels[0]), value, axis, probe)
    others = {i: _of_channels(torch.stack(each), probe) for i, each in read.items()}
    if fit is None or any(images is None for images in others.values()):
        return None
    there = {i: images for i, images in others.items() if images is not None}
    return Form(kernels[0], probe.basis, probe.sizes, *fit, there)


def _fit(
    gradients: tuple[torch.Tensor, ...], value: torch.Tensor, axis: int, probe: _Probe
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return `a` and the images of the form, for the order of the weight's axes that has it."""
    for order in permutations(range(gradients[0].ndim)):
        if gradients[0].permute(order).shape == value.shape:
            rows = [g.permute(order).movedim(axis, 0).flatten(1) for g in gradients]
            fit = _of_kernel(torch.stack(rows), probe)
            if fit is not None:
                return fit
    return None


def _of_kernel(found: torch.Tensor, probe: _Probe) -> tuple[torch.Tensor, torch.Tensor] | None:
    scale = (found[2] * probe.apart).sum(1) / probe.apart.square().sum(1)
    images = torch.einsum("jcn,cnk->cjk", found[:2], probe.basis) / probe.sizes[:, None]
    spanned = torch.einsum("cjk,cnk->jcn", images, probe.basis)
    drawn = scale[:, None] * probe.apart + torch.einsum("cj,jcn->cn", probe.parts, found[:2])
    left = torch.linalg.vector_norm(found - torch.cat([spanned, drawn[None]]), dim=2)
    terms = torch.linalg.vector_norm(found, dim=2) + scale.abs() * probe.norms
    terms[2] += (probe.parts.T.abs() * terms[:2]).sum(0)
    return (scale, images) if bool((left <= TOLERANCE * terms).all()) else None


def _of_channels(found: torch.Tensor, probe: _Probe) -> torch.Tensor | None:
    """Return the images of a weight with one number a channel, if it has the form."""
    if found[0].numel() != len(probe.sizes):
        return None
    found = found.flatten(1)
    images = found[:2].T
    left = (found[2] - (probe.parts * images).sum(1)).abs()
    terms = (images.abs() / probe.sizes.sqrt()).sum(1) * probe.norms[2]
    return images if bool((left <= TOLERANCE * terms).all()) else None
