"""A model's loss of one example on PyTorch, its clipped sums, and what its state takes up."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import torch

from keras_dp.augmentation import SEED_STATE
from keras_dp.backend.float16 import FLOAT16_SCALE
from keras_dp.backend.report import Report, Row
from keras_dp.backend.torch import programs
from keras_dp.backend.torch.clipping import Auto
from keras_dp.backend.torch.clipping.assemble import (
    LossFunction,
    clipped_sum,
    joined,
    run,
    with_loss_scale,
)
from keras_dp.backend.torch.clipping.covering import uses_of
from keras_dp.backend.torch.clipping.probe import check_apart
from keras_dp.backend.torch.clipping.randomness import OwnRandomness
from keras_dp.backend.torch.clipping.recording import Record, capture, mapped
from keras_dp.backend.torch.clipping.tied import tied
from keras_dp.backend.torch.compiling import is_eager
from keras_dp.backend.torch.modules import check_trained, reading, unwritten
from keras_dp.backend.trace import ExampleTrace
from keras_dp.clip_rules import Clip, layers_of, numbered
from keras_dp.types import ClippedSum, Tree

LIVE_PART = 0.5
"""Part of all intermediate values that are kept at one time, forward and backward."""

PROBED = 3
"""Examples that are run to see whether they are apart."""


def clip_examples(
    model: Any,
    params: list[Any],
    non_trainable: list[Any],
    metrics: list[Any],
    examples: Tree,
    valid: Any,
    clip_norm: Any,
) -> ClippedSum:
    """Clip the gradients of a microbatch's examples by the model's rule, and sum them.

    Args:
        model: A `DPModel` that is built and compiled.
        params: Values of its trainable variables.
        non_trainable: Values of its non-trainable variables.
        metrics: Values of its metric variables.
        examples: Dict with `x`, `y`, `sample_weight` and `position`, the example's place in the
            batch, from which its random numbers follow; each with a leading axis of examples. With
            augmentation the leaves of `x` have an axis of views after it.
        valid: Boolean for each example: whether it is one; all others are padding.
        clip_norm: Float or scalar tensor, the bound on one example's gradient.

    Returns:
        Sums for each trainable variable, the norms, the losses, and as `aux` a dict with each
        example's `y_pred` (`None` where the model needs none) and its changes of `metrics`.

    Privacy:
        Adding or removing one example moves the sums by at most the clip rule's sensitivity.
    """
    rows, valid, bound = mapped(_tensor, (examples, valid, clip_norm))
    arguments = (params, non_trainable, metrics, rows, valid, bound)
    plain = partial(_clipped, model, programs.present().auto)
    if is_eager(model):
        return plain(*arguments)
    compiled: ClippedSum = programs.run(partial(_clipped, model, clipped_sum), plain, arguments)
    return compiled


def _clipped(
    model: Any,
    compute: Callable[..., ClippedSum],
    params: list[Any],
    non_trainable: list[Any],
    metrics: list[Any],
    rows: Tree,
    valid: torch.Tensor,
    clip_norm: torch.Tensor,
) -> ClippedSum:
    clip = Clip(model.optimizer.clip_rule, clip_norm, numbered(layers_of(model), len(params)))
    if any(layer.compute_dtype == "float16" for layer in model._flatten_layers()):
        compute = with_loss_scale(compute, FLOAT16_SCALE)
    return compute(example_loss(model, non_trainable, metrics), params, rows, valid, clip)


def example_loss(model: Any, non_trainable: list[Any], metrics: list[Any]) -> LossFunction:
    """Make `loss_fn(params, example) -> (loss, outputs)`.

    The model and the loss see a batch of one, so nothing in them can mix examples, and whatever
    Keras averages over a batch it averages over one example. The mean over the views of an example
    is taken before its gradient.

    Args:
        model: A `DPModel` that is built and compiled.
        non_trainable: Values of its non-trainable variables.
        metrics: Values of its metric variables.
    """
    keeps_predictions = model.needs_predictions()

    def of_view(params: Any, example: Tree, x: Tree, view: int) -> tuple[torch.Tensor, Tree]:
        one = {**example, "x": x}
        with OwnRandomness(example["position"], view):
            loss, y_pred, after = loss_and_state(model, params, non_trainable, metrics, one)
        changes = [new - old for new, old in zip(after[1], metrics, strict=True)]
        return loss, {"y_pred": y_pred if keeps_predictions else None, "metrics": changes}

    def loss_fn(params: Any, example: Tree) -> tuple[torch.Tensor, Tree]:
        if model.view_maker is None:
            return of_view(params, example, example["x"], 0)
        views = [_row(example["x"], k) for k in range(model.view_maker.count)]
        found = [of_view(params, _copied(example), view, k) for k, view in enumerate(views)]
        losses = torch.stack([loss for loss, _ in found])
        changes = zip(*(outputs["metrics"] for _, outputs in found), strict=True)
        means = [torch.stack(each).float().mean(0).to(each[0].dtype) for each in changes]
        return losses.mean(), {**found[0][1], "metrics": means}

    return loss_fn


def loss_and_state(
    model: Any, params: Any, non_trainable: Any, metrics: Any, example: Tree
) -> tuple[torch.Tensor, Tree, tuple[list[Any], list[Any]]]:
    """Return an example's loss, its prediction, and the new non-trainable and metric values."""
    kinds = model.trainable_variables, model.non_trainable_variables, model.metrics_variables
    mapping = [
        pair
        for variables, values in zip(kinds, (params, non_trainable, metrics), strict=True)
        for pair in zip(variables, values, strict=True)
    ]
    x, y, weight = (
        mapped(lambda a: None if a is None else a[None], example[name])
        for name in ("x", "y", "sample_weight")
    )
    with (
        model.example_by_example(),
        reading(model, mapping),
        keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope,
    ):
        y_pred = model(x, training=True) if model._call_has_training_arg else model(x)
        loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight, training=True)

    def after(variables: Any, values: Any) -> list[Any]:
        found = [scope.get_current_value(variable) for variable in variables]
        return [old if new is None else new for new, old in zip(found, values, strict=True)]

    state = after(kinds[1], non_trainable), after(kinds[2], metrics)
    return loss.float().reshape(()), mapped(_without_batch, y_pred), state


def trace_example(model: Any, rows: Tree) -> ExampleTrace:
    """Run the loss of an example of zeros and follow data into the non-trainable variables.

    A variable whose new value is another for every example takes up data, whatever their values:
    `torch.vmap` knows what depends on them.

    Args:
        model: A `DPModel` that is built and compiled.
        rows: `(x, y, sample_weight)` with a few examples, of which only the shapes are used.
    """
    blank = mapped(_blank, dict(zip(("x", "y", "sample_weight"), rows, strict=True)))
    blank["position"] = keras.ops.zeros(1, "int64")
    views = model.view_maker is not None
    one = {**blank, "x": mapped(lambda a: a[:, 0], blank["x"])} if views else blank
    state = [[v.value.detach() for v in each] for each in _state_of(model)]
    written: set[int] = set()
    dependent: set[int] = set()

    def of_one(params: Any, example: Tree) -> tuple[torch.Tensor, Tree]:
        loss, _, (after, _) = loss_and_state(model, params, state[1], state[2], example)
        for i, (old, new) in enumerate(zip(state[1], after, strict=True)):
            if new is not old:
                written.add(i)
                if capture(torch.as_tensor(new))[1] is not None:
                    dependent.add(i)
        return loss, None

    with unwritten(model):
        loss, _ = of_one(state[0], _row(one, 0))
        recorded = _recorded(of_one, state[0], one)
    check_trained(model, loss)
    if recorded is None:
        # What `vmap` cannot run is not known: whatever it writes, but seeds, may be of the data.
        seeds = {i for i, v in enumerate(model.non_trainable_variables) if v.name == SEED_STATE}
        dependent = written - seeds
    if not dependent:  # what takes up data is refused
        _check_apart(model, state, blank)
    return ExampleTrace(
        tuple(sorted(dependent)),
        partial(_advance, model, one, frozenset(dependent)),
        partial(_report, model, blank),
    )


def _check_apart(model: Any, state: list[list[Any]], blank: Tree) -> None:
    compute, (params, non_trainable, metrics) = Auto(), state

    def run(rows: Tree, valid: torch.Tensor) -> ClippedSum:
        bound = torch.ones((), device=valid.device)
        return _clipped(model, compute, params, non_trainable, metrics, rows, valid, bound)

    with warnings.catch_warnings(action="ignore"):  # training says it again
        check_apart(run, blank, min(PROBED, model.microbatch_size or PROBED), model)


def _recorded(loss_fn: LossFunction, params: Any, batch: Tree) -> Record | None:
    """Run a loss beside a record; `None` where the loss cannot be recorded."""
    record = Record([value.detach().requires_grad_() for value in params])
    try:
        with torch.enable_grad():
            losses, _ = run(record, loss_fn, record.weights, batch)
            record.gradients(losses)
    except Exception:  # as in `clipping.Auto`
        return None
    return record


def _advance(model: Any, one: Tree, dependent: Any, params: Any, non_trainable: Any) -> list[Any]:
    """Return the non-trainable variables after a run on zeros, but for those that take up data."""
    if not non_trainable:
        return []
    example = _row(one, 0)
    metrics = [variable.value for variable in model.metrics_variables]
    with torch.no_grad():
        _, _, (after, _) = loss_and_state(model, params, non_trainable, metrics, example)
    return [
        old if i in dependent else torch.as_tensor(new).detach()
        for i, (old, new) in enumerate(zip(non_trainable, after, strict=True))
    ]


def _report(model: Any, blank: Tree) -> Report:
    """Return where weights meet data and what clipping costs there, from a run on zeros."""
    names = [variable.path for variable in model.trainable_variables]
    params, *state = ([v.value.detach() for v in each] for each in _state_of(model))
    record = _recorded(example_loss(model, *state), params, blank)
    if record is None:
        size = sum(value.numel() for value in params)
        whole = Row(tuple(names), (), "loss", "one example at a time", 2 * size, 4 * size)
        return Report((whole,), 8 * size, 0)
    zeros = [tuple(torch.zeros_like(o) for o in site.outputs) for site in record.sites]
    rows: list[Row] = []
    with torch.no_grad():
        uses = [use for s, z in zip(record.sites, zeros, strict=True) for use in uses_of(s, z)]
    for weight, value in zip(names, record.weights, strict=True):
        own = [use for use in uses if _comes_from(use.derived.value, value)]
        direct = tied(value, joined([use for use in own if use.derived.leaf is not None]))
        for use in (*direct, *(use for use in own if use.derived.leaf is None)):
            direct_alone = len(direct) == 1 and all(u.derived.leaf is not None for u in own)
            rule = use.name if direct_alone else f"{use.name}, pulled back"
            shape = tuple(use.derived.value.shape)
            rows.append(Row((weight,), shape, type(use).__name__, rule, use.flops, use.bytes))
        if not own:
            rows.append(Row((weight,), tuple(value.shape), "-", "no effect on the loss", 0, 0))
    return Report(tuple(rows), int(LIVE_PART * record.bytes), 0)


def _comes_from(derived: torch.Tensor, weight: torch.Tensor) -> bool:
    if derived is weight:
        return True
    total = derived.sum()
    return torch.autograd.grad(total, weight, allow_unused=True, retain_graph=True)[0] is not None


def _state_of(model: Any) -> tuple[list[Any], list[Any], list[Any]]:
    return model.trainable_variables, model.non_trainable_variables, model.metrics_variables


def _row(tree: Tree, index: int) -> Tree:
    return mapped(lambda leaf: None if leaf is None else leaf[index], tree)


def _copied(tree: Tree) -> Tree:
    """Return copies, since Keras writes masks into sample weights in place."""
    return mapped(lambda leaf: None if leaf is None else leaf.clone(), tree)


def _tensor(leaf: Any) -> Any:
    return None if leaf is None else keras.ops.convert_to_tensor(leaf)


def _blank(leaf: Any) -> Any:
    return None if leaf is None else torch.zeros_like(_tensor(leaf[:1]))


def _without_batch(leaf: torch.Tensor) -> torch.Tensor:
    if leaf.ndim == 0 or leaf.shape[0] != 1:
        raise ValueError(
            "Every output of the model must have a batch axis of the inputs' size. For a batch "
            f"of one example an output came with shape {tuple(leaf.shape)}."
        )
    return leaf[0]
