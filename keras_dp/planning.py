"""What is decided and checked before the first update of private training."""

import hashlib
import math
import warnings
from typing import Any

import keras

from keras_dp import backend, sampling, validation
from keras_dp.accounting import BudgetGuard
from keras_dp.augmentation import Augmentation, count_views, first_views
from keras_dp.clip_rules import AdaptiveQuantile
from keras_dp.errors import NotPrivateError
from keras_dp.optimizers import DPOptimizer
from keras_dp.plan import Budget, PrivacyPlan, updates_per_epoch
from keras_dp.run import PrivateRun
from keras_dp.sampling import Sampler, Source
from keras_dp.sampling.rows import Rows, leaves
from keras_dp.types import Tree


def check_optimizer(optimizer: Any) -> None:
    """Refuse an optimizer that is not private."""
    if not isinstance(optimizer, DPOptimizer):
        raise NotPrivateError(
            "`optimizer` must be a DP optimizer, such as `keras_dp.optimizers.DPAdam(...)` or "
            "`keras_dp.optimizers.DPOptimizer(your_optimizer, clip_norm=..., "
            f"noise_multiplier=...)`. Received: {type(optimizer).__name__}."
        )


def check_budget(budget: Any) -> None:
    """Refuse a budget that is none."""
    if budget is not None and not isinstance(budget, Budget):
        raise ValueError(
            "`budget` must be a `keras_dp.Budget(epsilon=..., delta=...)` or None. "
            f"Received: {budget!r}."
        )


def check_class(cls: type, base: type) -> None:
    """Refuse a subclass that replaces the private step."""
    for name in ("train_step", "make_train_function"):
        if getattr(cls, name) is not getattr(base, name):
            raise NotPrivateError(
                f"`{cls.__name__}.{name}` replaces the private step, so its updates would be "
                "neither clipped, nor noised, nor counted. Put a custom loss into `compute_loss` "
                "or `add_loss`, which are called for one example at a time."
            )


def check_compiled(model: Any) -> None:
    """Refuse to train a model that has not been compiled, or whose optimizer was replaced."""
    if not model.compiled:
        raise ValueError("Call `compile()` with a DP optimizer before training. It was not called.")
    check_optimizer(model.optimizer)


def check_shuffle(shuffle: Any) -> None:
    """Refuse a fixed order of the examples."""
    if not shuffle:
        raise ValueError(
            "`shuffle=False` asks for a fixed order, but the examples of a private update are "
            "drawn at random. Leave the argument out."
        )


def choose_batch_size(
    batch_size: int | None, steps_per_epoch: int | None, source: Source, sampler: Sampler
) -> int:
    """Return the declared batch size, with Keras' defaults where it is not given."""
    size = source.size
    if isinstance(sampler, sampling.FullBatch):
        chosen = size if batch_size is None else batch_size
    elif batch_size is None and source.batch_size is not None:
        chosen = source.batch_size
    elif batch_size is None:
        chosen = math.ceil(size / steps_per_epoch) if steps_per_epoch else min(32, size)
    else:
        chosen = batch_size
    chosen = validation.positive_int("batch_size", chosen)
    sampler.check(chosen, size)
    return chosen


def steps_of_epoch(source: Source, batch_size: int, steps_per_epoch: int | None) -> int:
    """Return the number of updates in an epoch of `fit`."""
    if steps_per_epoch is not None:
        return validation.positive_int("steps_per_epoch", steps_per_epoch)
    return source.updates_per_epoch or updates_per_epoch(source.size, batch_size)


def plan_run(
    model: Any, source: Source, sampler: Sampler | None, batch_size: int, guard: BudgetGuard
) -> PrivateRun:
    """Put together the plan of a `fit`, or of one batch when there is no sampler."""
    optimizer, budget = model.optimizer, model.budget
    warn_of_delta(budget, source.size, stacklevel=5)
    # An infinite noise multiplier stands for one that is not settled yet: used by mistake it
    # would destroy the weights, never the privacy.
    noise_multiplier = optimizer.noise_multiplier
    plan = PrivacyPlan(
        sampling="given" if sampler is None else sampler.name,
        batch_size=batch_size,
        dataset_size=source.size,
        clip_norm=optimizer.clip_norm,
        noise_multiplier=math.inf if noise_multiplier is None else noise_multiplier,
        clipping=optimizer.clip_rule.name,
        sensitivity=float(optimizer.clip_rule.sensitivity(optimizer.clip_norm)),
        seeded=optimizer.seed is not None,
        private_metrics=_shown(model),
        noise=optimizer.noise,
        dimension=_dimension(model) if optimizer.noise == "discrete_gaussian" else None,
        **({} if sampler is None else sampler.plan_settings(batch_size, source.size)),
        **source.plan_settings(),
    )
    if noise_multiplier is None and budget is None:
        raise ValueError(
            "`noise_multiplier=None` is calibrated from the model's budget, and there is none. "
            "Pass `budget=keras_dp.Budget(epsilon=..., delta=...)` to `compile`, or a "
            "`noise_multiplier` to the optimizer."
        )
    size = microbatch_size(model, batch_size)
    backend.agree_on(
        {
            "settings": plan.get_config(),
            "microbatch size": size,
            "number of updates so far": guard.ledger.updates,
            "seed": optimizer.seed,
        }
    )
    secret = backend.shared_seed()
    if secret is not None:
        guard.ledger.share_ids(secret)
        backend.agree_on({"data (digest of the first examples)": _digest(source, secret)})
    return PrivateRun(
        plan,
        source,
        sampler,
        guard,
        optimizer.clip_rule,
        secret if optimizer.seed is None else optimizer.seed,
        size,
        model.private_metrics,
        augmentation=model.view_maker,
    )


def warn_of_delta(budget: Budget | None, size: int, stacklevel: int) -> None:
    """Warn of a delta that allows to publish an example outright."""
    if budget is not None and budget.delta * size >= 1:
        warnings.warn(
            f"delta={budget.delta:g} is at least one over the number of examples, {size}: "
            "a mechanism that publishes one example outright would satisfy it. Choose a delta "
            f"well below {1 / size:.1g}.",
            stacklevel=stacklevel,
        )


def _digest(source: Source, secret: int) -> str:
    """Return a digest of the first examples that tells nothing to who has not the secret."""
    first = repr([leaf.tolist() for leaf in leaves(source.first())]).encode()
    return hashlib.blake2b(first, key=secret.to_bytes(32, "little"), digest_size=8).hexdigest()


def check_noise_settled(run: PrivateRun) -> None:
    """Refuse a single update whose noise is yet to be calibrated, which needs a `fit`."""
    if math.isinf(run.plan.noise_multiplier):
        raise ValueError(
            "`noise_multiplier=None` is calibrated at the first `fit`, which knows how many "
            "updates are planned. Call `fit` first, or pass a `noise_multiplier` to the optimizer."
        )


def microbatch_size(model: Any, batch_size: int) -> int:
    """Return the number of examples on the devices at a time; each group has as many.

    Without a choice of the user: the largest power of two whose estimated memory fits one device,
    for each group.
    """
    placement = backend.placement()
    if model.microbatch_size is not None:
        return placement.padded(model.microbatch_size)
    views = count_views(model.view_maker)
    fitting = backend.least_of(backend.fitting_examples(model.report.bytes_per_example, views))
    return placement.padded(min(placement.shards * fitting, 1 << (batch_size - 1).bit_length()))


def preparation_key(model: Any, rows: Tree) -> tuple[Any, ...]:
    """Return what the traced step depends on: shapes of the data, and what is trainable."""
    shapes = [(a.shape[1:], str(a.dtype)) for a in keras.tree.flatten(rows) if a is not None]
    structure = str(keras.tree.map_structure(lambda a: a is None, rows))
    return (structure, shapes, [variable.trainable for variable in model.variables])


def viewed(augmentation: Augmentation | None, rows: Rows) -> tuple[Rows, Rows]:
    """Return the rows as the model takes them, and as the step does: with all views of each."""
    if augmentation is None:
        return rows, rows
    x, y, weight = rows
    views = backend.settle_views(augmentation, x)
    return (first_views(views), y, weight), (views, y, weight)


def check_targets(model: Any, rows: Rows) -> None:
    """Refuse data without targets for a loss that compares with them."""
    if model._compile_loss is not None and rows[1] is None:
        raise ValueError(
            "The model was compiled with a loss, which needs targets, but the data give none. Pass "
            "`y`, or data that give `(x, y)`. A model that calls `add_loss`, or has a "
            "`compute_loss` of its own, is compiled without `loss`."
        )


def check_placement(model: Any) -> None:
    """Refuse a model whose variables do not lie where `keras.distribution` puts the examples.

    Raises:
        ValueError: naming variables, or metrics whose values of groups of examples cannot be added
            up.
    """
    placed = backend.placement()
    misplaced = placed.misplaced([*model.variables, *model.optimizer.variables])
    if misplaced:
        devices = 1 if placed.mesh is None else placed.mesh.size
        raise ValueError(
            "The model and its optimizer must be made under the distribution that they are trained "
            f"under. `keras.distribution.distribution()` has {devices} device"
            f"{'s' * (devices > 1)} now. Received variables on others: "
            f"{', '.join(misplaced[:3])}. Call `keras.distribution.set_distribution` before the "
            "model is built, or save the model and load it again under the new distribution."
        )
    if placed.spread and model.private_metrics is None:
        _check_metrics(model._compile_metrics)


def _check_metrics(compiled: Any) -> None:
    own = [
        metric.name
        for metric in (compiled.metrics if compiled is not None else [])
        if not type(metric).update_state.__module__.startswith("keras.")
    ]
    if own:
        raise ValueError(
            "Metrics must be sums over examples where examples are spread over devices, since each "
            "group of devices sees its own. That is known of Keras' metrics only. Received metrics "
            f"with an `update_state` of their own: {own}. Make a "
            "`keras.metrics.MeanMetricWrapper` of a function of targets and predictions, or "
            "compute them in `evaluate`."
        )


def check_state(model: Any, data_dependent: tuple[int, ...]) -> None:
    """Refuse a model whose non-trainable state would take up private data, naming the layers."""
    if not data_dependent:
        return
    layers = {}
    for position in data_dependent:
        layer = _owner(model, model.non_trainable_variables[position])
        layers[layer.name] = type(layer).__name__
    listed = ", ".join(f"{name!r} ({kind})" for name, kind in layers.items())
    raise NotPrivateError(
        f"These layers store values computed from the training data: {listed}. They would publish "
        "them without clipping and noise. Set `layer.trainable = False` before `compile` (a "
        "frozen BatchNormalization runs in inference mode), or replace the layer, "
        "BatchNormalization by GroupNormalization or LayerNormalization. Calling the layer with "
        "`training=False` is no protection: `fit` overrides it."
    )


def describe(model: Any) -> str:
    """Return one line with the settings of private training, for the summary."""
    if not model.compiled:
        return "Private training: not compiled"
    optimizer = model.optimizer
    noise, name = optimizer.noise_multiplier, optimizer.clip_rule.name
    rule = "" if name == "flat" else f" (clip rule {name})"
    kind = "" if optimizer.noise == "gaussian" else f" ({optimizer.noise})"
    amount = "to be calibrated" if noise is None else f"{noise:g}"
    return (
        f"Private training: {type(optimizer).__name__}, clip norm {optimizer.clip_norm:g}{rule}, "
        f"noise multiplier {amount}{kind}, sampling {model.sampler.name}, budget {model.budget}, "
        f"{model.ledger.updates} updates so far"
    )


def _dimension(model: Any) -> int:
    """Count the numbers that an update releases, those for which `step.start` has a sum."""
    weights = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    count = isinstance(model.optimizer.clip_rule, AdaptiveQuantile)
    return weights + count + _shown(model)


def _shown(model: Any) -> int:
    return 0 if model.private_metrics is None else len(model.private_metrics.names)


def _owner(model: Any, variable: Any) -> Any:
    """Return the innermost layer that holds the variable."""
    holders = [
        layer
        for layer in model._flatten_layers()
        if any(held is variable for held in layer.non_trainable_variables)
    ]
    return min(reversed(holders), key=lambda layer: len(layer.variables))
