"""What a rule is, and how operations get theirs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_dp.backend.tensorflow.clipping.contributions import Contribution
from keras_dp.backend.tensorflow.clipping.flow import DATA, Flow, Site
from keras_dp.backend.tensorflow.clipping.tracing import OWN_GRADIENT


@dataclass(frozen=True)
class Rule:
    """How every example's gradient at a site follows from its output's cotangents.

    Attributes:
        name: What `explain` calls it; nothing where gradients are simply written out.
        reads: Tensors of one example that it needs besides the cotangent.
        contribution: `contribution(cotangents, *reads)` with an axis of examples in front of each,
            all floating ones in float32.
    """

    name: str
    reads: tuple[Any, ...]
    contribution: Callable[..., Contribution]


Maker = Callable[[Site], Rule | None]

RULES: dict[str, Maker] = {}
"""Makers of rules by the type of the operation. They return `None` where they do not apply."""


def rule_for(*types: str) -> Callable[[Maker], Maker]:
    """Register a maker of rules for operations of these types."""

    def register(maker: Maker) -> Maker:
        RULES.update(dict.fromkeys(types, maker))
        return maker

    return register


def find_rule(site: Site, flow: Flow) -> Rule | None:
    """Return the rule for a site, or `None` where the gradient of the operation must do.

    Every rule is for one output of known shape, and one input that depends on data.
    """
    op = site.op
    if not op.outputs:
        return None
    known = all(t.shape.is_fully_defined() for t in (*op.inputs, *op.outputs))
    others = [flow.of(tensor) for i, tensor in enumerate(op.inputs) if i != site.index]
    plain = sum(bool(colour & DATA) for colour in others) == 1
    real = op.outputs[0].dtype.is_floating and site.weight.dtype.is_floating
    if (
        not known
        or not plain
        or not real
        or op.type not in RULES
        or len(op.outputs) != 1
        or _odd(op)
    ):
        return None
    return RULES[op.type](site)


def _odd(op: Any) -> bool:
    """Whether somebody else gave the operation a gradient of its own."""
    if "_gradient_op_type" not in op.node_def.attr:
        return False
    return op.get_attr("_gradient_op_type").decode() != OWN_GRADIENT
