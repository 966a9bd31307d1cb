"""From norms to factors: what each example's gradients are multiplied with in the sum."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_dp.clip_rules.rules import ClipRule


@dataclass(frozen=True)
class Clip:
    """A clip rule with its bound.

    Attributes:
        rule: The clip rule.
        clip_norm: Float or traced scalar, the bound.
        layers: For each leaf of the parameters, the number of the layer it belongs to.
        scales: What the loss of each example was multiplied with, shape `(batch,)`; or 1.
    """

    rule: ClipRule
    clip_norm: Any
    layers: tuple[int, ...]
    scales: Any = 1.0

    def apply(self, squares: Sequence[Any], mask: Any) -> tuple[Any, list[Any]]:
        """Return the examples' norms, and for each leaf the examples' factors.

        Norms are those without loss scale; the factors take it away with what they clip.

        A masked example and one whose norm is not finite get factor 0, in every leaf: it counts as
        nothing *inside* the clip. Repairing the noisy sum afterwards would erase the noise with it.

        Args:
            squares: For each leaf, the squared norm of every example's gradient as computed.
            mask: Shape `(batch,)`, 0 for padding.
        """
        nothing = ops.zeros(ops.shape(mask), "float32")
        norms = ops.sqrt(sum(squares, start=nothing)) / self.scales
        real = ops.cast(mask, "float32") > 0
        taken = ops.logical_and(ops.isfinite(norms), real)
        if not self.rule.per_layer:
            whole = self._factors(norms, taken, 1)
            return norms, [whole] * len(squares)
        totals = dict.fromkeys(self.layers, nothing)
        for layer, square in zip(self.layers, squares, strict=True):
            totals[layer] = totals[layer] + square
        by_layer = {
            layer: self._factors(ops.sqrt(total) / self.scales, taken, len(totals))
            for layer, total in totals.items()
        }
        return norms, [by_layer[layer] for layer in self.layers]

    def _factors(self, norms: Any, taken: Any, layers: int) -> Any:
        safe = ops.where(taken, norms, 0.0)
        factors = self.rule.factors(safe, self.clip_norm, layers) / self.scales
        return ops.where(taken, factors, 0.0)


def numbered(layers: Sequence[Any] | None, leaves: int) -> tuple[int, ...]:
    """Number the layers in order of appearance.

    Args:
        layers: One hashable for each leaf of the parameters; `None`: each leaf is a layer.
        leaves: Number of leaves.

    Raises:
        ValueError: for another number of layers than of leaves.
    """
    names = list(range(leaves)) if layers is None else list(layers)
    if len(names) != leaves:
        raise ValueError(
            f"`layers` must have one entry for each of the {leaves} leaves of `params`. "
            f"Received {len(names)}."
        )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return tuple(numbers[name] for name in names)


def layers_of(model: Any) -> list[str]:
    """Return the layer that each trainable variable of a Keras model belongs to."""
    return [variable.path.rpartition("/")[0] for variable in model.trainable_variables]
