"""Weight regularizers, which depend on no data and stay outside the clip."""

from typing import Any

import keras
import torch


def regularization_gradient(model: Any, params: list[Any]) -> tuple[Any, list[Any]]:
    """Return the weight regularizers' loss and its gradient.

    They depend on no data, so they stay outside the clip and cost no privacy.

    Args:
        model: A `DPModel` that is built.
        params: Values of its trainable variables.
    """
    with torch.enable_grad():
        values = [value.detach().requires_grad_() for value in params]
        mapping = list(zip(model.trainable_variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            losses = [torch.sum(loss) for loss in model.regularization_losses()]
        penalty = torch.stack(losses).sum() if losses else keras.ops.zeros(())
    if not penalty.requires_grad:
        return penalty, [torch.zeros_like(value) for value in params]
    found = torch.autograd.grad(penalty, values, allow_unused=True, materialize_grads=True)
    return penalty.detach(), list(found)
