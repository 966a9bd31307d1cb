"""Weights whose gradients belong together: norms and clipped sums from their uses."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tensorflow as tf

from keras_dp.backend.tensorflow.clipping.contributions import (
    Contribution,
    Factored,
    Written,
    merged,
)
from keras_dp.backend.tensorflow.clipping.flow import Flow

TRAFFIC = 8
"""Multiplications that take as long as writing one number to memory and reading it again."""


@dataclass
class Group:
    """Weights that are computed together before they meet data, mostly a single one.

    Attributes:
        members: Positions among the leaves of the parameters.
        uses: Positions of the sites where they meet data.
    """

    members: list[int]
    uses: list[int] = field(default_factory=list)


def make_groups(flow: Flow, weights: Sequence[Any], met: Sequence[Any]) -> list[Group]:
    """Join weights that reach data through the same tensor.

    Args:
        flow: The graph.
        weights: The leaves of the parameters.
        met: The tensor that meets data, for each site.
    """
    place = {weight.ref(): i for i, weight in enumerate(weights)}
    groups = [Group([i]) for i in range(len(weights))]
    for use, tensor in enumerate(met):
        behind = sorted({place[weight.ref()] for weight in flow.weights_behind(tensor)})
        joined = groups[behind[0]]
        for other in {id(groups[i]): groups[i] for i in behind[1:]}.values():
            if other is not joined:
                joined.members += other.members
                joined.uses += other.uses
                for member in other.members:
                    groups[member] = joined
        joined.uses.append(use)
    return list({id(group): group for group in groups}.values())


@dataclass(frozen=True)
class FactoredGradients:
    """Every example's gradient of one weight, as sums of outer products.

    Attributes:
        parts: Gradients of which no two are of a kind.
        shape: Shape of the weight.
    """

    parts: list[Factored]
    shape: tuple[int, ...]

    def squares(self) -> list[Any]:
        """Return the squared norms."""
        total = 0.0
        for i, part in enumerate(self.parts):
            if part.positions == 1 and part.rows.shape.rank == part.columns.shape.rank == 3:
                total += tf.reduce_sum(part.rows**2, (1, 2)) * tf.reduce_sum(
                    part.columns**2, (1, 2)
                )
            else:
                total += part.inner(part)
            total += sum(2.0 * part.inner(other) for other in self.parts[i + 1 :])
        return [tf.maximum(total, 0.0)]  # rounding may bring it below

    def sums(self, factors: list[Any], clean: Any) -> list[Any]:
        """Return the clipped sum, given the examples' factors and whether all may be used."""
        (factor,) = factors
        total = tf.zeros((), tf.float32)
        for part in self.parts:
            rows, columns = (
                each if each.shape.rank == 2 else _kept(each, factor > 0, clean)
                for each in (part.rows, part.columns)
            )
            total += replace(part, rows=rows, columns=columns).total(factor)
        return [tf.reshape(total, self.shape)]


@dataclass(frozen=True)
class WrittenGradients:
    """Every example's gradients of several weights, in full.

    Attributes:
        values: For each weight, float32 array of shape `(examples, *shape)`.
    """

    values: list[Any]

    def squares(self) -> list[Any]:
        """Return the squared norms, for each weight."""
        return [tf.reduce_sum(v * v, list(range(1, v.shape.rank))) for v in self.values]

    def sums(self, factors: list[Any], clean: Any) -> list[Any]:
        """Return the clipped sums, given the examples' factors and whether all may be used."""
        return [
            tf.tensordot(factor, _kept(value, factor > 0, clean), 1)
            for factor, value in zip(factors, self.values, strict=True)
        ]


Gradients = FactoredGradients | WrittenGradients


def _kept(values: Any, taken: Any, clean: Any) -> Any:
    """Put zeros in the place of examples that are not taken, since 0 times NaN is NaN."""
    taken = tf.reshape(taken, (-1, *[1] * (values.shape.rank - 1)))
    kept = tf.cond(clean, lambda: values, lambda: tf.where(taken, values, 0.0))
    return tf.ensure_shape(kept, values.shape)


def gradients_of(
    group: Group,
    flow: Flow,
    weights: Sequence[Any],
    met: Sequence[Any],
    contributions: Sequence[Contribution],
    size: int,
) -> Gradients:
    """Put together every example's gradients of a group's weights.

    Args:
        group: The group.
        flow: The graph.
        weights: The leaves of the parameters.
        met: The tensor that meets data, for each site.
        contributions: What each site adds to the gradient of that tensor.
        size: The number of examples.
    """
    weight = weights[group.members[0]]
    shape = tuple(weight.shape)
    if not group.uses:
        return WrittenGradients([tf.zeros((size, *shape))])
    if not meets_directly(group, flow, weights, met, contributions):
        return _pulled_back(group, weights, met, contributions)
    direct = _joined([_as_met(contributions[use], flow.view(met[use])[1]) for use in group.uses])
    parts = [each for each in direct if isinstance(each, Factored)]
    if len(parts) == len(direct) and _by_products(parts):
        return FactoredGradients(parts, shape)
    return WrittenGradients([sum(tf.reshape(each.written(), (size, *shape)) for each in direct)])


def _as_met(contribution: Contribution, flipped: bool) -> Contribution:
    return contribution.flipped if flipped and isinstance(contribution, Factored) else contribution


def meets_directly(
    group: Group,
    flow: Flow,
    weights: Sequence[Any],
    met: Sequence[Any],
    contributions: Sequence[Contribution],
) -> bool:
    """Whether a group is one weight, and data meet nothing but its own numbers."""
    for use in group.uses:
        source, flipped = flow.view(met[use])
        own = contributions[use]
        turned = flipped and not (isinstance(own, Factored) and own.size == own.shape)
        if source is not weights[group.members[0]] or turned or len(group.members) > 1:
            return False
    return True


def _joined(contributions: Sequence[Contribution]) -> list[Contribution]:
    return [
        *merged([each for each in contributions if isinstance(each, Factored)]),
        *(each for each in contributions if isinstance(each, Written)),
    ]


def _by_products(parts: Sequence[Factored]) -> bool:
    """Whether inner products are possible, and cost less than writing the gradients out."""
    if len({part.size for part in parts}) > 1:
        return False
    rows, columns = parts[0].size
    if any(part.rows.shape.rank == 2 or part.columns.shape.rank == 2 for part in parts):
        return True
    positions = sum(part.positions for part in parts)
    if positions == 1:
        return True
    products = positions**2 * (rows + columns + TRAFFIC) + positions * rows * columns
    return products < rows * columns * (positions + TRAFFIC)


def _pulled_back(
    group: Group, weights: Sequence[Any], met: Sequence[Any], contributions: Sequence[Contribution]
) -> WrittenGradients:
    """Take gradients back through the operations between the weights and the data."""
    by_tensor: dict[Any, list[Contribution]] = {}
    tensors = {}
    for use in group.uses:
        tensors[met[use].ref()] = met[use]
        by_tensor.setdefault(met[use].ref(), []).append(contributions[use])
    totals = []
    for ref, tensor in tensors.items():
        own = _joined(by_tensor[ref])
        total = sum(tf.reshape(each.written(), (-1, *tensor.shape)) for each in own)
        totals.append(tf.cast(total, tensor.dtype))
    members = [weights[i] for i in group.members]
    if members[0].graph is not tf.compat.v1.get_default_graph():
        raise ValueError(
            "With `jit_compile=True` clipping knows only weights that meet data as they are. "
            "Received a loss that computes a value from weights first, such as a standardised "
            "kernel. Compile with `jit_compile=False`, or clip with `method='vmap'`."
        )

    def one(gradients: list[Any]) -> list[Any]:
        found = tf.gradients(
            list(tensors.values()),
            members,
            grad_ys=gradients,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return [tf.cast(each, tf.float32) for each in found]

    found = tf.vectorized_map(one, totals, warn=False)
    return WrittenGradients(
        [
            tf.ensure_shape(v, (totals[0].shape[0], *w.shape))
            for v, w in zip(found, members, strict=True)
        ]
    )
