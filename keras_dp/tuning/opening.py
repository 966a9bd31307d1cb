"""What is settled before the first run of a search: its terms, and that they can be kept."""

import secrets
from collections.abc import Iterable
from typing import Any

import keras

from keras_dp import accounting, planning, validation, watching
from keras_dp.accounting import BestOf, Release
from keras_dp.plan import Budget, PrivacyPlan
from keras_dp.sampling import Source


def opened(
    model: Any,
    source: Source,
    sizes: tuple[int | None, int | None, int],
    promise: tuple[Budget, BestOf],
    before: Release | None,
) -> Release:
    """Return the search as it is counted, with the least noise that keeps it within the budget.

    Args:
        model: A model whose sampling and history are those of all.
        source: The training data.
        sizes: Batch size, updates in an epoch, and epochs, as they were passed.
        promise: The budget, and how many runs there are.
        before: The search that was interrupted, or `None` for a new one.

    Raises:
        PrivacyBudgetExceeded: when what was released before leaves too little of the budget.
        ValueError: for bad sizes, a sampling that a search cannot count, or when the terms are not
            those of the search that was interrupted.
    """
    given, steps_per_epoch, epochs = sizes
    batch_size = planning.choose_batch_size(given, steps_per_epoch, source, model.sampler)
    steps = planning.steps_of_epoch(source, batch_size, steps_per_epoch)
    updates = validation.positive_int("epochs", epochs) * steps
    source.open(updates + (source.updates_per_epoch or 0))  # every run reads them anew
    budget, best_of = promise
    id = secrets.token_hex(16) if before is None else before.id
    prior = tuple(release for release in model.ledger.releases if release.id != id)
    plan = _plan(model, batch_size, source)
    plan = accounting.calibrate(budget, plan, updates, prior, best_of)
    search = Release(plan, updates, id, best_of)
    if before is not None and search != before:
        raise ValueError(
            "An interrupted search must be taken up with the data, batch, epochs, budget and "
            f"number of runs that it began with. It began with {_described(before)}. Received: "
            f"{_described(search)}. Pass the same, or begin another search with a new "
            "`project_name`; both then count, if anything of the first was published."
        )
    return search


def check_objective(names: Iterable[str], model: Any, has_validation: bool) -> None:
    """Refuse to compare runs by what would disclose the training data.

    Args:
        names: The metrics to compare by.
        model: A model like all of the search.
        has_validation: Whether there is validation data, as far as can be known.

    Raises:
        ValueError: for an exact training metric, or a metric of validation data that are missing.
    """
    private = _private_names(model)
    for name in names:
        if name in private:
            continue
        if not name.startswith("val_"):
            raise ValueError(
                "`objective` must be a metric of validation data, such as 'val_accuracy', or a "
                "training metric that is shown with noise, `compile(private_metrics=...)`: what "
                "runs are compared by is released with the best of them, and an exact training "
                f"metric discloses training data. Received: {name!r}, private metrics: {private}."
            )
        if not has_validation:
            raise ValueError(
                f"`objective` {name!r} needs validation data. Pass `validation_data=(x, y)`, which "
                "should be public or at least others than the training data: the guarantee does "
                "not cover them."
            )


def notes(
    names: Iterable[str], model: Any, callbacks: Any, *, split: bool, own_fit: bool
) -> list[str]:
    """Return what the statement has to mention of the objective and the callbacks.

    Args:
        names: The metrics to compare by.
        model: A model like all of the search.
        callbacks: What is passed to each run.
        split: Whether the validation data were split off from the training data.
        own_fit: Whether the program trains and scores the models in a `fit` of its own.
    """
    held = "data split off from the training data" if split else "the validation data"
    how = "computed by the program itself, unchecked" if own_fit else f"an exact function of {held}"
    private = _private_names(model)
    compared = [
        f"The search compared runs by {name!r}, {how}."
        for name in names
        if own_fit or name not in private
    ]
    return [*compared, *watching.notes(callbacks, private, split)]


def check_held_out(validation_data: Any, x: Any) -> None:
    """Refuse to compare runs on the very data that they are trained on."""
    if isinstance(validation_data, (tuple, list)) and any(part is x for part in validation_data):
        raise ValueError(
            "`validation_data` must not be the training data: what runs are compared by is "
            "released with the best of them. Pass other data, or compare by a training metric that "
            "is shown with noise, `compile(private_metrics=...)`."
        )


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """Refuse a callback that would let a run go on where another one stopped."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ValueError(
                "`callbacks` must not restore runs: a run must not go on where another stopped. "
                "Leave `BackupAndRestore` out; a search that is interrupted begins the interrupted "
                "run again."
            )


def _private_names(model: Any) -> tuple[str, ...]:
    return () if model.private_metrics is None else tuple(model.private_metrics.names)


def _plan(model: Any, batch_size: int, source: Source) -> PrivacyPlan:
    """Return the plan of an update but for the noise; clip norms differ, so it stands for 1."""
    sampler = model.sampler
    settings = {**sampler.plan_settings(batch_size, source.size), **source.plan_settings()}
    return PrivacyPlan(
        sampling=sampler.name,
        batch_size=batch_size,
        dataset_size=source.size,
        clip_norm=1.0,
        noise_multiplier=1.0,
        private_metrics=len(_private_names(model)),
        **settings,
    )


def _described(search: Release) -> str:
    plan, best_of = search.plan, search.best_of
    return (
        f"{search.updates} updates with noise multiplier {plan.noise_multiplier:g}, batch size "
        f"{plan.batch_size} of {plan.dataset_size} examples, sampling {plan.sampling!r}, {best_of}"
    )
