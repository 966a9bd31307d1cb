"""How an example's gradient is scaled down, by name."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

ClipRule = Callable[[Any, Any], Any]


def flat(norms: Any, clip_norm: Any) -> Any:
    """Scale factors that bound the whole gradient: `min(1, clip_norm / norm)`.

    Args:
        norms: float32 array of shape `(batch,)`, L2 norms over all weights together.
        clip_norm: Float, the bound.

    Returns:
        float32 array of shape `(batch,)`. The scaled gradient has norm at most `clip_norm`, which
        is the sensitivity of the sum to adding or removing one example.

    References:
        Abadi et al. 2016, Deep Learning with Differential Privacy, algorithm 1.
    """
    return clip_norm / jnp.maximum(norms, clip_norm)


CLIP_RULES: dict[str, ClipRule] = {"flat": flat}
"""Names that `DPOptimizer(clipping=...)` takes."""
