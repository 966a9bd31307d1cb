"""Clipped sums on PyTorch: by a record of where weights meet data, or example by example."""

import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import torch

from keras_dp.backend.torch.clipping import assemble, reference
from keras_dp.backend.torch.clipping.assemble import with_loss_scale
from keras_dp.backend.torch.clipping.recording import mapped, tensors_of
from keras_dp.clip_rules import Clip, ClipRule, numbered
from keras_dp.types import ClippedSum, Tree

__all__ = ["Auto", "clipped_sum"]


class Auto:
    """The clipped sum from the record, or, for a loss that it does not cover, the slow sure way.

    Which it is shows at the first call, and is remembered.
    """

    def __init__(self) -> None:
        self._covered = True

    def __call__(self, *arguments: Any) -> ClippedSum:
        """Clip each example's gradient and sum; see `assemble.clipped_sum`."""
        if not self._covered:
            return reference.clipped_sum(*arguments)
        try:
            return assemble.clipped_sum(*arguments)
        except Exception as error:
            # `UnrecordedError`, or what `vmap` cannot run, data-dependent control flow for one.
            if _lacks_memory(error):
                raise
            why = f"{_layer_of(error)}{type(error).__name__}: {error}"
        result = reference.clipped_sum(*arguments)  # an error that the loss itself has comes again
        self._covered = False
        warnings.warn(
            "This loss runs for one example after the other, which takes many times longer: "
            "PyTorch cannot run it for all at once, or parts of it cannot be followed. For a "
            f"model, `keras_dp.clipping.explain` shows it too. {why}",
            stacklevel=2,
        )
        return result


def _layer_of(error: Exception) -> str:
    """Name the innermost layer whose call raised an error."""
    names = [
        frame.f_locals["self"].name
        for raised in (error.__context__, error)
        for frame, _ in traceback.walk_tb(raised.__traceback__ if raised else None)
        if isinstance(frame.f_locals.get("self"), keras.layers.Layer)
    ]
    return f"In {names[-1]!r}: " if names else ""


def _lacks_memory(error: Exception) -> bool:
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or "DefaultCPUAllocator" in str(error)


def clipped_sum(
    loss_fn: Callable[..., Any],
    clip_norm: Any,
    method: str,
    rule: ClipRule,
    layers: Sequence[Any] | None,
    loss_scale: float | None,
) -> Callable[..., ClippedSum]:
    """Make a function that clips every example's gradient and sums them.

    Args:
        loss_fn: `loss_fn(params, example)` gives a scalar loss, or `(loss, aux)`.
        clip_norm: Float or scalar tensor, the bound.
        method: `"auto"` or `"vmap"`; here the second takes one example at a time.
        rule: The clip rule.
        layers: One hashable for each tensor of `params`, or `None`.
        loss_scale: For gradients in float16, or `None`.

    See `keras_dp.clipping.clipped_sum`.
    """
    compute: Callable[..., ClippedSum] = Auto() if method == "auto" else reference.clipped_sum
    if loss_scale is not None:
        compute = with_loss_scale(compute, loss_scale)

    def clip_and_sum(params: Tree, batch: Tree, mask: Any = None) -> ClippedSum:
        batch = mapped(_as_tensor, batch)
        weights = tensors_of(params := mapped(_as_tensor, params))
        size = _batch_axis(batch)
        _check_weights(weights)
        mask = torch.ones(size) if mask is None else torch.as_tensor(mask)
        mask = mask.to(tensors_of(batch)[0].device)
        if mask.shape != (size,):
            raise ValueError(
                f"`mask` must have shape ({size},), one entry for each example. "
                f"Received shape {tuple(mask.shape)}."
            )

        def of_one(leaves: list[torch.Tensor], example: Tree) -> tuple[torch.Tensor, Tree]:
            result = loss_fn(_like(params, leaves), example)
            loss, aux = result if isinstance(result, tuple) else (result, None)
            if loss.ndim:
                raise ValueError(
                    "`loss_fn` must return a scalar loss for one example. "
                    f"Received shape {tuple(loss.shape)}; reduce it with a mean or a sum."
                )
            return loss, aux

        clip = Clip(rule, clip_norm, numbered(layers, len(weights)))
        if size == 0:
            sums = [torch.zeros(weight.shape, device=weight.device) for weight in weights]
            return ClippedSum(_like(params, sums), mask.float(), mask.float(), None)
        result = compute(of_one, weights, batch, mask, clip)
        return result._replace(grads=_like(params, result.grads))

    return clip_and_sum


def _like(tree: Tree, tensors: Sequence[torch.Tensor]) -> Any:
    given = iter(tensors)
    return mapped(lambda leaf: next(given) if isinstance(leaf, torch.Tensor) else leaf, tree)


def _as_tensor(leaf: Any) -> Any:
    return leaf if leaf is None else torch.as_tensor(leaf)


def _batch_axis(batch: Tree) -> int:
    sizes = {tuple(leaf.shape[:1]) for leaf in tensors_of(batch)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            "Every leaf of `batch` must have the same leading batch axis. "
            f"Received leading axes {sorted(sizes)}."
        )
    return int(next(iter(sizes))[0])


def _check_weights(weights: list[torch.Tensor]) -> None:
    for number, weight in enumerate(weights):
        if not weight.is_floating_point():
            raise ValueError(
                "`params` must hold floating point tensors, since they are differentiated. "
                f"Received {weight.dtype} at tensor {number} of `params`."
            )
