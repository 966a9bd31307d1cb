"""The clipped sum by book-keeping: one vectorised pass, then norms and sums site by site."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_dp.backend.tensorflow.clipping import reference
from keras_dp.backend.tensorflow.clipping.contributions import Contribution, Written
from keras_dp.backend.tensorflow.clipping.flow import Flow, Site
from keras_dp.backend.tensorflow.clipping.groups import gradients_of, make_groups
from keras_dp.backend.tensorflow.clipping.rules import Rule, find_rule
from keras_dp.backend.tensorflow.clipping.tracing import open_functions, vectorised
from keras_dp.backend.tensorflow.clipping.trees import Packed
from keras_dp.clip_rules.factors import Clip
from keras_dp.types import ClippedSum, Tree

GENERIC = "generic"
"""What `explain` calls the gradient of one operation as TensorFlow computes it."""


@dataclass(frozen=True)
class Use:
    """A site with the way its gradients are found, and what that takes from every example.

    Attributes:
        site: The site.
        rule: Its rule, `None` for the operation's own gradient.
        reads: Tensors of one example.
    """

    site: Site
    rule: Rule | None
    reads: list[Any]

    def contribution(self, stacked: list[Any]) -> Contribution:
        """Return what the site adds to the gradient, from the stacked tensors."""
        stacked = [tf.cast(a, tf.float32) if a.dtype.is_floating else a for a in stacked]
        return Written(stacked[0]) if self.rule is None else self.rule.contribution(*stacked)


def has_gradient(tensor: Any) -> bool:
    """Whether derivatives with respect to a tensor exist; lists of tensors are variants."""
    return tensor.dtype.is_floating or tensor.dtype.is_complex or tensor.dtype == tf.variant


def find_uses(loss: Any, flow: Flow) -> list[Use]:
    """Return all sites through which the loss depends on weights, with their cotangents."""
    outputs = list({t.ref(): t for site in flow.sites for t in site.op.outputs}.values())
    smooth = [tensor for tensor in outputs if has_gradient(tensor)]
    found = tf.gradients(loss, smooth) if smooth else []
    cotangents = {t.ref(): g for t, g in zip(smooth, found, strict=True) if g is not None}
    uses = []
    for site in flow.sites:
        reached = [t for t in site.op.outputs if t.ref() in cotangents]
        if not reached or not has_gradient(site.weight):
            continue
        own = [tf.convert_to_tensor(cotangents[t.ref()]) for t in reached]
        rule = find_rule(site, flow)
        if rule is not None:
            uses.append(Use(site, rule, [own[0], *rule.reads]))
            continue
        (gradient,) = tf.gradients(reached, [site.weight], own, stop_gradients=site.op.inputs)
        if gradient is not None:
            uses.append(Use(site, None, [tf.convert_to_tensor(gradient)]))
    return uses


class Traced:
    """One example's loss in the graph, and what is taken from it for every example.

    Args:
        loss_fn: `loss_fn(params, example) -> (loss, aux)`.
        params: The parameters, a structure of tensors.
        example: One example, a structure of tensors of this graph.
        zero: A zero that depends on the example.
        views: How many examples in a row are averaged to one.

    Attributes:
        flow: What depends on what.
        uses: Where weights meet data.
        loss: The loss.
        aux: The auxiliary outputs.
    """

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        params: Tree,
        example: Tree,
        zero: Any,
        views: int,
    ) -> None:
        with open_functions():
            self.loss, self.aux = loss_fn(params, example)
        self.weights = tf.nest.flatten(params)
        total = tf.cast(self.loss, tf.float32) + zero  # so that every weight meets data
        data = [zero, *Packed(example).tensors]
        self.flow = Flow([total], self.weights, data)
        self.uses = [] if self.flow.has_lists else find_uses(total / views, self.flow)
        self.met = [use.site.weight for use in self.uses]


def clipped_sum(
    loss_fn: Callable[[Tree, Tree], tuple[Any, Tree]],
    params: Tree,
    batch: Tree,
    mask: Any,
    clip: Clip,
    views: int = 1,
) -> ClippedSum:
    """Clip each example's gradient and sum, see `keras_dp.clipping.clipped_sum`.

    Args:
        loss_fn: `loss_fn(params, example) -> (loss, aux)`.
        params: Structure of tensors.
        batch: Structure of tensors with a leading axis of examples, or, for each example one after
            another, of its views.
        mask: Shape `(examples,)`, 0 for padding.
        clip: The clip rule with its bound.
        views: How many views an example has; its loss is their mean.

    Returns:
        See `ClippedSum`; losses and `aux` are those of the views.

    Privacy:
        `loss_fn` sees one example at a time, and what is vectorised are the operations that it
        makes of it, so that examples cannot mix.
    """
    size, rows = int(mask.shape[0]), Packed(batch)
    traced: list[Traced] = []
    packed: list[Packed] = []

    def one(elements: list[Any]) -> list[Any]:
        zero, *leaves = elements
        own = tf.nest.map_structure(tf.identity, params)  # XLA gives the loop a graph of its own
        one_traced = Traced(loss_fn, own, rows.unpacked(leaves), zero, views)
        traced.append(one_traced)
        packed.append(Packed(one_traced.aux))
        if one_traced.flow.has_lists:
            return [zero]
        reads = [tensor for use in one_traced.uses for tensor in use.reads]
        return [one_traced.loss, *packed[0].tensors, *reads]

    zeros = tf.zeros((size * views,), tf.float32)
    stacked = vectorised(one, [zeros, *rows.tensors])
    loss, (aux,) = traced[0], packed
    if loss.flow.has_lists:
        return reference.clipped_sum(loss_fn, params, batch, mask, clip, views)
    losses, *others = stacked
    aux_values, reads = others[: len(aux.tensors)], others[len(aux.tensors) :]
    contributions = []
    for use in loss.uses:
        own, reads = reads[: len(use.reads)], reads[len(use.reads) :]
        contributions.append(use.contribution(own).joined(views))
    groups = make_groups(loss.flow, loss.weights, loss.met)
    gradients = [
        gradients_of(group, loss.flow, loss.weights, loss.met, contributions, size)
        for group in groups
    ]
    norms, sums = _clipped(groups, gradients, len(loss.weights), mask, clip)
    return ClippedSum(
        tf.nest.pack_sequence_as(params, sums), norms, losses, aux.unpacked(aux_values)
    )


def _clipped(
    groups: list[Any], gradients: list[Any], count: int, mask: Any, clip: Clip
) -> tuple[Any, list[Any]]:
    """Return the norms and the clipped sums, in the order of the weights."""
    squares: list[Any] = [None] * count
    for group, gradient in zip(groups, gradients, strict=True):
        for member, own in zip(group.members, gradient.squares(), strict=True):
            squares[member] = own
    norms, factors = clip.apply(squares, mask)
    clean = tf.reduce_all(tf.math.is_finite(norms))
    sums: list[Any] = [None] * count
    for group, gradient in zip(groups, gradients, strict=True):
        own = gradient.sums([factors[member] for member in group.members], clean)
        for member, total in zip(group.members, own, strict=True):
            sums[member] = total
    return norms, sums
