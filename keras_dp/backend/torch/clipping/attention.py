"""Attention of all examples in one call: `torch.vmap` would call it for one after the other."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as it is called everywhere

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def attention(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Call `scaled_dot_product_attention`, for the examples of `torch.vmap` as one batch.

    What draws random numbers is left to `torch.vmap`, and so are shapes other than
    `(batch, heads, positions, width)`.

    Args:
        *args: As PyTorch's function takes them.
        **kwargs: Likewise.
    """
    given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
    tensors = [given.get(name) for name in _NAMES[:4]]
    shapes = [tensor.shape for tensor in tensors[:3] if tensor is not None]
    plain = all(len(shape) == 4 and shape[:2] == shapes[0][:2] for shape in shapes)
    if not plain or len(shapes) < 3 or given.get("dropout_p"):
        return F.scaled_dot_product_attention(*args, **kwargs)
    if tensors[3] is not None:
        tensors[3] = tensors[3].expand(shapes[0][0], *tensors[3].shape[-3:])
    options = {key: value for key, value in given.items() if key not in _NAMES[:4]}
    apply: Any = _Attention.apply
    result: torch.Tensor = apply(*tensors, options)
    return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, options: Any
    ) -> torch.Tensor:
        """Attend in one example's values, on which no example and no weight has a part."""
        return F.scaled_dot_product_attention(query, key, value, mask, **options)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        """Attend in all examples."""

        def folded(value: Any, axis: int | None) -> Any:
            if value is None:
                return None
            whole = value.expand(info.batch_size, *value.shape) if axis is None else value
            return whole.movedim(axis or 0, 0).flatten(0, 1)

        query, key, value, mask = map(folded, inputs[:4], in_dims[:4])
        found = F.scaled_dot_product_attention(query, key, value, mask, **inputs[4])
        return found.reshape(info.batch_size, -1, *found.shape[1:]), 0
