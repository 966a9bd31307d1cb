"""The slow sure way: every example's gradient in full, by `torch.vmap`, else one by one."""

from typing import Any

import torch

from keras_dp.backend.torch.clipping.assemble import LossFunction, detached
from keras_dp.backend.torch.clipping.recording import mapped, tensors_of
from keras_dp.backend.torch.clipping.rules import contracted, squares
from keras_dp.clip_rules import Clip
from keras_dp.types import ClippedSum, Tree


def clipped_sum(
    loss_fn: LossFunction, weights: list[torch.Tensor], batch: Tree, mask: torch.Tensor, clip: Clip
) -> ClippedSum:
    """Clip each example's gradient and sum; see `assemble.clipped_sum`."""
    found = [_of_one(loss_fn, weights, _row(batch, i)) for i in range(len(mask))]
    losses = torch.stack([loss for loss, _, _ in found])
    scales = torch.as_tensor(clip.scales, device=mask.device).expand(len(mask))
    grads = [
        torch.stack([g * s for g, s in zip(each, scales, strict=True)])
        for each in zip(*(grads for _, grads, _ in found), strict=True)
    ]
    norms, factors = clip.apply([squares(g) for g in grads], mask)
    sums = [contracted(f, g) for f, g in zip(factors, grads, strict=True)]
    auxes = [tensors_of(aux) for _, _, aux in found]
    stacked = iter([torch.stack(each) for each in zip(*auxes, strict=True)])
    aux = mapped(lambda t: next(stacked) if isinstance(t, torch.Tensor) else t, found[0][2])
    return ClippedSum(sums, norms, losses, aux)


def _of_one(loss_fn: LossFunction, weights: Any, example: Tree) -> tuple[Any, list[Any], Tree]:
    leaves = [weight.detach().requires_grad_() for weight in weights]
    with torch.enable_grad():
        loss, aux = loss_fn(leaves, example)
        grads: Any = [None] * len(leaves)
        if loss.requires_grad:
            grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    whole = [
        torch.zeros(leaf.shape, device=leaf.device) if g is None else g.float()
        for g, leaf in zip(grads, leaves, strict=True)
    ]
    return loss.detach(), whole, detached(aux)


def _row(batch: Tree, index: int) -> Any:
    return mapped(
        lambda leaf: leaf[index].clone() if isinstance(leaf, torch.Tensor) else leaf, batch
    )
