"""Clipped sums from a record: norms, clip rule, sum. Nothing is computed twice.

A weight that is used once, as it is but for the order of its entries, is measured where it is used.
Where several calls use it, or one uses a value that was computed from it, every example's gradient
is written out for each of them and taken back to the weight before it is measured.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from keras_dp.backend.torch.clipping.covering import uses_of
from keras_dp.backend.torch.clipping.recording import Derived, Record, mapped, tensors_of
from keras_dp.backend.torch.clipping.rules import Dense, Use, WrittenOut, contracted, squares
from keras_dp.backend.torch.clipping.standardised import standardised
from keras_dp.backend.torch.clipping.tied import tied
from keras_dp.clip_rules import Clip
from keras_dp.types import ClippedSum, Tree

LossFunction = Callable[[list[torch.Tensor], Tree], tuple[torch.Tensor, Tree]]


class Piece:
    """One weight's part in every example's gradient.

    Args:
        weight: The weight.
        uses: Where it, or what is computed from it, meets data; those that keep its entries.
        taken_back: Gradients that were written out and taken back to it, or `None`.
    """

    def __init__(
        self, weight: torch.Tensor, uses: list[Use], taken_back: torch.Tensor | None
    ) -> None:
        self.weight, self.uses = weight, uses
        self.written = taken_back
        if taken_back is not None or len(uses) > 1:
            parts = [_back(use.derived, [weight], use.gradients())[0] for use in uses]
            whole = [part for part in (*parts, taken_back) if part is not None]
            self.written = torch.stack(whole).sum(0) if len(whole) > 1 else whole[0]

    def squares(self, examples: int) -> torch.Tensor:
        """Return the squared norms of all examples."""
        if self.written is not None:
            return squares(self.written)
        if not self.uses:
            return torch.zeros(examples, device=self.weight.device)
        return self.uses[0].squares()

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the sum of the gradients times the factors, float32 of the weight's shape."""
        if self.written is not None:
            return contracted(factors, self.written)
        for use in self.uses:  # there is one at most
            (back,) = _back(use.derived, [self.weight], use.weighted_sum(factors)[None])
            if back is not None:
                return back[0]
        return torch.zeros(self.weight.shape, device=self.weight.device)


def clipped_sum(
    loss_fn: LossFunction, weights: list[torch.Tensor], batch: Tree, mask: torch.Tensor, clip: Clip
) -> ClippedSum:
    """Clip each example's gradient and sum, by one forward and one backward pass.

    Args:
        loss_fn: `loss_fn(weights, example)` gives a scalar loss and a tree of tensors.
        weights: The weights; what the loss computes from them is followed.
        batch: Tree of tensors with a leading axis of examples.
        mask: Shape `(examples,)`, 0 for padding.
        clip: The clip rule with its bound.

    Raises:
        UnrecordedError: for a loss that the record does not cover.
    """
    leaves = [weight.detach().requires_grad_() for weight in weights]
    record = Record(leaves)
    with torch.enable_grad():
        losses, aux = run(record, loss_fn, leaves, batch)
        pieces = take_apart(record, losses * clip.scales, leaves)
    with torch.no_grad():
        squares = [piece.squares(len(mask)) for piece in pieces]
        norms, factors = clip.apply(squares, mask)
    sums = [piece.weighted_sum(f) for piece, f in zip(pieces, factors, strict=True)]
    return ClippedSum([s.detach() for s in sums], norms, losses.detach(), detached(aux))


def run(record: Record, loss_fn: LossFunction, weights: Any, batch: Tree) -> tuple[Any, Tree]:
    """Return every example's loss and auxiliary outputs, and fill the record."""
    parts = [part.clone() for part in tensors_of(batch)]  # a loss may write into its example
    shape: list[Any] = []

    def of_one(*rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        record.anchor = rows[0]
        given = iter(rows)
        example = mapped(
            lambda leaf: next(given) if isinstance(leaf, torch.Tensor) else leaf, batch
        )
        with record:
            loss, aux = loss_fn(weights, example)
        shape.append(aux)
        # One tensor at least depends on the examples, whatever the loss does with them.
        return loss, *tensors_of(aux)

    losses, *found = torch.vmap(of_one, randomness="different")(*parts)
    rest = iter(found)
    aux = mapped(lambda leaf: next(rest) if isinstance(leaf, torch.Tensor) else leaf, shape[0])
    return losses, aux


def take_apart(record: Record, losses: torch.Tensor, weights: list[torch.Tensor]) -> list[Piece]:
    """Return each weight's part in the gradients of the losses."""
    gradients = record.gradients(losses)
    direct: list[list[Use]] = [[] for _ in weights]
    derived: dict[int, list[Use]] = {}
    with torch.no_grad():
        for site, given in zip(record.sites, gradients, strict=True):
            for use in uses_of(site, given):
                key = use.derived.leaf
                if key is None:
                    derived.setdefault(id(use.derived.value), []).append(use)
                else:
                    direct[key].append(use)
    back: list[Any] = [None] * len(weights)
    for uses in map(joined, derived.values()):
        closed = standardised(uses, weights)
        if closed is not None:
            direct[closed.form.kernel].append(closed)
            found = closed.of_others(weights)
        else:
            written = torch.stack([use.gradients() for use in uses]).sum(0)
            found = _back(uses[0].derived, weights, written)
        for i, part in enumerate(found):
            if part is not None:
                back[i] = part if back[i] is None else back[i] + part
    whole = [tied(w, joined(u)) for w, u in zip(weights, direct, strict=True)]
    return [Piece(w, u, b) for w, u, b in zip(weights, whole, back, strict=True)]


def joined(uses: list[Use]) -> list[Use]:
    """Return the uses with those made one that are products with one matrix, or sums of it."""
    products: dict[Any, list[Dense]] = {}
    written: dict[int, list[Use]] = {}
    rest: list[Use] = []
    for use in uses:
        if isinstance(use, Dense):
            key = (id(use.derived.value), use.inputs, use.outputs)
            products.setdefault(key, []).append(use)
        elif isinstance(use, WrittenOut):
            written.setdefault(id(use.derived.value), []).append(use)
        else:
            rest.append(use)
    made: list[Use] = [_one_product(each) for each in products.values()]
    for each in written.values():
        total = each[0].gradients()
        for use in each[1:]:
            total = total + use.gradients()
        made.append(WrittenOut(each[0].derived, total))
    return made + rest


def _one_product(uses: list[Dense]) -> Dense:
    first = uses[0]
    if len(uses) == 1:
        return first
    x, y = (torch.cat([getattr(use, name) for use in uses], 1) for name in ("x", "y"))
    return Dense(first.derived, x, y, first.inputs, first.outputs)


def _back(
    derived: Derived, weights: list[torch.Tensor], gradients: torch.Tensor
) -> list[torch.Tensor | None]:
    """Take gradients of a derived value, one an example, back to the weights it comes from."""
    if any(derived.value is weight for weight in weights):
        return [gradients if derived.value is weight else None for weight in weights]
    given = gradients.to(derived.value.dtype)
    found = torch.autograd.grad(
        derived.value, weights, given, retain_graph=True, allow_unused=True, is_grads_batched=True
    )
    return [None if g is None else g.float() for g in found]


def detached(tree: Tree) -> Tree:
    """Return the tree with its tensors cut off from any gradient."""
    return mapped(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, tree)


def with_loss_scale(compute: Callable[..., ClippedSum], first: float) -> Callable[..., ClippedSum]:
    """Make a clip method that scales every example's loss, for gradients in float16.

    An example whose gradient overflows is tried again with a smaller scale of its own; what it adds
    depends on no other example.

    Args:
        compute: A clip method.
        first: The scale that every example is tried with first.
    """

    def scaled(loss_fn: Any, weights: Any, batch: Tree, mask: Any, clip: Clip) -> ClippedSum:
        scales = torch.full(mask.shape, first, device=mask.device)
        for _ in range(3):
            result = compute(loss_fn, weights, batch, mask, replace(clip, scales=scales))
            again = (mask > 0) & result.losses.isfinite() & ~result.norms.isfinite()
            if not bool(again.any()):
                break
            scales = torch.where(again, scales / first, scales)
        return result

    return scaled
