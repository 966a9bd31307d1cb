"""One private update as pure functions of arrays: clip, sum, noise once, optimizer.

The only place where a clipped sum becomes a privatized gradient.
"""

from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from keras_dp import backend, noise
from keras_dp.augmentation import first_views
from keras_dp.clip_rules import AdaptiveQuantile, ClipRule
from keras_dp.private_metrics import PrivateMetrics
from keras_dp.types import ByDevice, NoisyGradient, Tree

State = tuple[list[Any], list[Any], list[Any], list[Any]]
"""Keras' training state: trainable, non-trainable, optimizer and metric variables."""


class Mechanism(NamedTuple):
    """What one update's clip and noise need, as array arguments of the compiled step.

    Attributes:
        clip_norm: Float, the bound on one example's gradient; where an adaptive one starts.
        noise_multiplier: Float, standard deviation of the noise on the sum, in units of the clip
            rule's sensitivity; raised where the sum is rounded, see
            `PrivacyPlan.raised_noise_multiplier`.
        batch_size: Float, the declared batch size that the noisy sum is divided by.
        key: uint32 array, this update's secret noise key, see `noise_key`.
    """

    clip_norm: np.float32
    noise_multiplier: np.float32
    batch_size: np.float32
    key: npt.NDArray[np.uint32]


class Microbatch(NamedTuple):
    """The examples on the device at one time.

    Attributes:
        data: `(x, y, sample_weight)`, each leaf with `microbatch_size` rows.
        offset: int32, position of the first row in the whole batch.
        valid: int32, how many rows are examples; the others are padding.
        key: uint32 array of shape `(2,)`, from which the random views of this update follow; `None`
            without augmentation.
    """

    data: Tree
    offset: Any
    valid: Any
    key: Any = None


def start(model: Any, params: list[Any]) -> list[Any]:
    """Return zeros to sum in: an array for each weight, and for what else is added up.

    That is the count of an adaptive clip norm, the private metrics, and, where examples are spread
    over devices, the changes of the metrics.
    """
    placed = backend.placement()
    shapes = [tuple(value.shape) for value in params]
    shapes += [()] * _adaptive(model)
    shapes += [] if model.private_metrics is None else [(len(model.private_metrics.names),)]
    if placed.spread and model.private_metrics is None:
        shapes += [tuple(variable.shape) for variable in model.metrics_variables]
    return placed.zeros(shapes, model.trainable_variables)


def accumulate(
    model: Any, state: State, sums: list[Any], microbatch: Microbatch, clip_norm: Any
) -> tuple[list[Any], list[Any]]:
    """Add a microbatch's clipped gradients to the sums, and its examples to the metrics.

    Args:
        model: A `DPModel` that is built and compiled.
        state: Its training state.
        sums: List of float32 arrays, the sums so far, see `start`.
        microbatch: The examples.
        clip_norm: Float, the bound on one example's gradient.

    Returns:
        The new sums and the new values of the metric variables.
    """
    params, non_trainable, _, metrics = state
    x, y, weight = microbatch.data
    rows = keras.ops.arange(_rows(x), dtype="int32")
    examples = {"x": x, "y": y, "sample_weight": weight, "position": rows + microbatch.offset}
    valid = rows < microbatch.valid
    placed = backend.placement()
    shared = (params, non_trainable, metrics, clip_norm, microbatch.key)
    if placed.spread:
        contribution = placed.by_group(partial(_contribution_of_group, model))
        added = contribution(shared, (examples, valid))
    else:
        added, results, penalty = _contribution(model, shared, (examples, valid))
        if model.private_metrics is None:
            metrics = backend.measure(model, metrics, results, microbatch.valid, penalty)
    return [total + new for total, new in zip(sums, added, strict=True)], metrics


def _contribution(model: Any, replicated: Tree, spread: Tree) -> tuple[list[Any], Tree, Any]:
    """Return what some examples add to the sums, their results, and the weights' penalty."""
    params, non_trainable, metrics, clip_norm, key = replicated
    examples, valid = spread
    augmentation = model.view_maker
    if augmentation is not None and not augmentation.on_host:
        views = backend.make_views(augmentation, examples["x"], examples["position"], key)
        examples = {**examples, "x": views}
    clipped = backend.clip_examples(
        model, params, non_trainable, metrics, examples, valid, clip_norm
    )
    added = list(clipped.grads)
    if _adaptive(model):
        added.append(_excess(clipped.norms, valid, clip_norm))
    x = examples["x"] if augmentation is None else first_views(examples["x"])
    seen = {"x": x, "y": examples["y"], "sample_weight": examples["sample_weight"]}
    results = {**seen, "losses": clipped.losses}
    results |= clipped.aux
    if model.private_metrics is not None:
        added.append(backend.observe(model, results, valid))
        return added, results, None
    penalty, _ = backend.regularization_gradient(model, params)
    return added, results, penalty


def _contribution_of_group(model: Any, replicated: Tree, spread: Tree) -> list[Any]:
    """Return what a group's examples add to the sums, changes of the metrics included."""
    params, non_trainable, metrics, clip_norm, key = replicated
    none = [keras.ops.zeros_like(value) for value in metrics]
    shared = (params, non_trainable, none, clip_norm, key)
    added, results, penalty = _contribution(model, shared, spread)
    if model.private_metrics is not None:
        return added
    valid = keras.ops.sum(keras.ops.cast(spread[1], "int32"))
    return added + backend.measure(model, none, results, valid, penalty)


def finish(model: Any, advance: Any, state: State, sums: list[Any], mechanism: Mechanism) -> State:
    """Turn the clipped sums of one whole update into new weights.

    `w <- optimizer(w, (sums + noise) / batch_size + gradient of the weight regularizers)`.

    Args:
        model: A `DPModel` that is built and compiled.
        advance: The function that moves its non-trainable variables on, see `ExampleTrace`.
        state: Its training state.
        sums: The clipped sums over all examples of the update.
        mechanism: Noise, divisor and key of this update.

    Privacy:
        Noise is drawn here, once for an update, whatever the number of microbatches, and also
        when no example was drawn. The divisor is the declared batch size: the number of examples
        drawn is private.
    """
    params, non_trainable, optimizer_variables, metrics = state
    optimizer, placed = model.optimizer, backend.placement()
    clip_norm = optimizer.present_clip_norm(optimizer_variables, mechanism.clip_norm)
    sums = placed.total(sums)
    if placed.spread and model.private_metrics is None:
        shown = len(sums) - len(metrics)
        changes = zip(metrics, sums[shown:], strict=True)
        metrics = [old + keras.ops.cast(change, old.dtype) for old, change in changes]
        sums = sums[:shown]
    noisy, excess, shares = privatize(
        optimizer.clip_rule,
        sums,
        mechanism,
        clip_norm,
        model.private_metrics,
        optimizer.noise,
        placed.by_device(model.trainable_variables),
    )
    _, regularization = backend.regularization_gradient(model, params)
    noisy_gradient = placed.laid_out(noisy.values, model.trainable_variables)
    gradient = [g + r for g, r in zip(noisy_gradient, regularization, strict=True)]
    advanced = advance(params, non_trainable) if non_trainable else []
    params, optimizer_variables = optimizer.stateless_apply(
        optimizer_variables, noisy._replace(values=gradient), params
    )
    if excess is not None:
        adapted = optimizer.clip_rule.next_clip_norm(clip_norm, excess, mechanism.batch_size)
        optimizer_variables = optimizer.with_clip_norm(optimizer_variables, adapted)
    if shares is not None:
        metrics = backend.show(model, metrics, shares)
    return (
        placed.laid_out(params, model.trainable_variables),
        placed.laid_out(advanced, model.non_trainable_variables),
        placed.laid_out(optimizer_variables, optimizer.variables),
        placed.laid_out(metrics, model.metrics_variables),
    )


def privatize(
    rule: ClipRule,
    sums: list[Any],
    mechanism: Mechanism,
    clip_norm: Any,
    private_metrics: PrivateMetrics | None = None,
    kind: str = "gaussian",
    by_device: ByDevice | None = None,
) -> tuple[NoisyGradient, Any, Any]:
    """Add noise to all sums of one update, each as much as its sensitivity asks for.

    Args:
        rule: The clip rule, which knows the sensitivity.
        sums: The sums over all examples of one update, see `start`.
        mechanism: Noise, divisor and key of this update.
        clip_norm: The bound that this update's gradients were clipped to.
        private_metrics: What is shown in the training logs, or `None`.
        kind: The kind of noise, `"gaussian"` (default) or `"discrete_gaussian"`.
        by_device: See `noise.add_noise`.

    Returns:
        `(sums + noise) / batch_size` in float32; the noisy count of an adaptive rule or `None`;
        the noisy sums of private metrics, divided by the batch size, or `None`.
    """
    others = []
    if isinstance(rule, AdaptiveQuantile):
        others.append(rule.count_noise(mechanism.batch_size))
    if private_metrics is not None:
        others.append(private_metrics.stddev(mechanism.batch_size))
    weights = len(sums) - len(others)
    stddev = mechanism.noise_multiplier * rule.sensitivity(clip_norm)
    noisy = noise.add_noise(sums, mechanism.key, [stddev] * weights + others, kind, by_device)
    gradient = NoisyGradient(
        [total / mechanism.batch_size for total in noisy[:weights]], stddev / mechanism.batch_size
    )
    excess = noisy[weights] if isinstance(rule, AdaptiveQuantile) else None
    shares = noisy[-1] / mechanism.batch_size if private_metrics is not None else None
    return gradient, excess, shares


def update(
    model: Any, advance: Any, state: State, batch: Microbatch, mechanism: Mechanism
) -> State:
    """Make one whole update with the loop over microbatches inside.

    Args:
        model: A `DPModel` that is built and compiled.
        advance: See `finish`.
        state: Its training state.
        batch: All examples of the update as one chunk, see `accumulate_chunk`; `valid` is the
            number drawn.
        mechanism: Clip, noise, divisor and key of this update.
    """
    clip_norm = model.optimizer.present_clip_norm(state[2], mechanism.clip_norm)
    sums, metrics = accumulate_chunk(model, state, start(model, state[0]), batch, clip_norm)
    return finish(model, advance, (*state[:3], metrics), sums, mechanism)


def accumulate_chunk(
    model: Any, state: State, sums: list[Any], chunk: Microbatch, clip_norm: Any
) -> tuple[list[Any], list[Any]]:
    """Add the microbatches of a chunk to the sums, one after another, as `accumulate` does.

    Args:
        model: A `DPModel` that is built and compiled.
        state: Its training state.
        sums: The sums so far, see `start`.
        chunk: Several microbatches, each leaf of shape `(microbatch_size, count, ...)` with example
            `offset + j * microbatch_size + i` at `[i, j]`. Those beyond the last valid example
            are not run.
        clip_norm: Float, the bound on one example's gradient.

    Returns:
        The new sums and the new values of the metric variables.
    """
    size = _rows(chunk.data[0])

    def body(position: Any, carry: tuple[list[Any], list[Any]]) -> tuple[list[Any], list[Any]]:
        sums, metrics = carry
        offset = position * size
        valid = keras.ops.minimum(chunk.valid - offset, size)
        data = backend.microbatch_at(chunk.data, position)
        microbatch = Microbatch(data, chunk.offset + offset, valid, chunk.key)
        return accumulate(model, (*state[:3], metrics), sums, microbatch, clip_norm)

    count = (chunk.valid + size - 1) // size
    summed: tuple[list[Any], list[Any]] = backend.repeat(count, body, (sums, state[3]))
    return summed


def _rows(x: Tree) -> int:
    return int(next(leaf.shape[0] for leaf in keras.tree.flatten(x) if leaf is not None))


def _adaptive(model: Any) -> bool:
    return isinstance(model.optimizer.clip_rule, AdaptiveQuantile)


def _excess(norms: Any, valid: Any, clip_norm: Any) -> Any:
    """Count +1/2 for each example whose norm is at most the clip norm, -1/2 for the others."""
    below = keras.ops.cast(norms <= clip_norm, "float32")
    return keras.ops.sum(keras.ops.where(valid, below - 0.5, 0.0))
