"""The models that a search compares: each is checked and charged before it trains."""

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import keras
import keras_tuner

from keras_dp import planning
from keras_dp.errors import NotPrivateError
from keras_dp.plan import Budget
from keras_dp.training import PrivateTraining
from keras_dp.tuning.oracle import IndependentRuns

Build = Callable[[Any], Any]


class Candidates(keras_tuner.HyperModel):
    """The user's hypermodel, whose models carry the cost of the search.

    Args:
        hypermodel: A `keras_tuner.HyperModel`, or a function from hyper-parameters to a compiled
            private model.
        budget: The promise that every model must be compiled with.
        oracle: Where the search is counted.
    """

    def __init__(self, hypermodel: Any, budget: Budget, oracle: IndependentRuns) -> None:
        super().__init__()
        self._inner = _hypermodel(hypermodel)
        self._budget, self._oracle = budget, oracle
        self._shown: tuple[str, ...] | None = None
        self._used: WeakValueDictionary[int, Any] = WeakValueDictionary()

    @property
    def fits_itself(self) -> bool:
        """Whether the user's hypermodel has a `fit` of its own."""
        return type(self._inner).fit is not keras_tuner.HyperModel.fit

    def declare_hyperparameters(self, hp: Any) -> None:
        """Let the user's hypermodel declare its hyper-parameters."""
        self._inner.declare_hyperparameters(hp)

    def build(self, hp: Any) -> Any:
        """Build one model; once the search is opened, it carries the cost and the noise of it.

        So a model that is trained anew with the best hyper-parameters is charged for finding them.

        Args:
            hp: As in KerasTuner.

        Raises:
            NotPrivateError: when the model is not private.
            ValueError: when it is not compiled for this search.
        """
        model, search = self._inner.build(hp), self._oracle.search
        if search is not None:
            check_compiled_for(self._budget, model)
            model.ledger.merge(self._oracle.ledger)
            model.optimizer.noise_multiplier = search.plan.noise_multiplier
            if model.built:
                model.optimizer.build(model.trainable_variables)
        return model

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Train one model as a run of the search.

        Args:
            hp: As in KerasTuner.
            model: As in KerasTuner.
            *args: As in KerasTuner.
            **kwargs: As in KerasTuner.
        """
        search = self._oracle.search
        if search is None:
            raise ValueError("A run must belong to a search. Call `tuner.search`, not `fit`.")
        self._check_like_the_first(model)
        self._check_known(hp)
        self._check_fresh(model)
        model.join_search(search)
        results = self._inner.fit(hp, model, *args, **kwargs)
        self._remember(model)  # again: training may have built it
        self._check_known(hp)
        return results

    def first(self) -> Any:
        """Build and check a model with default hyper-parameters, whose like all others must be."""
        model = self._inner.build(self._oracle.get_space())
        check_compiled_for(self._budget, model)
        self._shown = _shown(model)
        return model

    def _check_like_the_first(self, model: Any) -> None:
        counted = {release.id for release in self._oracle.ledger.releases}
        own = sum(r.updates for r in model.ledger.releases if r.id not in counted)
        if own:
            raise ValueError(
                "All candidates must start from weights of the same history: new ones, or the same "
                f"pre-trained ones. Received one with {own} updates in its ledger that the search "
                "was not opened with."
            )
        if _shown(model) != self._shown:
            raise ValueError(
                "All candidates must be compiled with the same private metrics. The first had "
                f"{self._shown}. Received: {_shown(model)}."
            )

    def _check_known(self, hp: Any) -> None:
        known = {parameter.name for parameter in self._oracle.get_space().space}
        unknown = [parameter.name for parameter in hp.space if parameter.name not in known]
        if unknown:
            raise ValueError(
                "All hyper-parameters must be known before the first run, or later runs would be "
                f"drawn from another distribution than earlier ones. Received: {unknown}. Declare "
                "them in every call of the build function, under `hp.conditional_scope` where they "
                "depend on others, or pass `hyperparameters=` to the tuner."
            )

    def _check_fresh(self, model: Any) -> None:
        if any(self._used.get(id(part)) is part for part in _parts(model)):
            raise ValueError(
                "The build function must make a new model, optimizer and trainable weights in "
                "every call: a run must not go on where another ended. Freeze layers that all "
                "candidates share, `layer.trainable = False`, or copy them."
            )
        self._remember(model)

    def _remember(self, model: Any) -> None:
        self._used.update({id(part): part for part in _parts(model)})


def check_compiled_for(budget: Budget, model: Any) -> None:
    """Refuse a model that is not private, or not compiled for a search.

    Args:
        budget: The promise of the search.
        model: What the build function returned.

    Raises:
        NotPrivateError: when it is not private.
        ValueError: when it cannot be loaded again, or is compiled with another budget, with noise
            or with a seed.
    """
    if not isinstance(model, PrivateTraining):
        raise NotPrivateError(
            "The build function must return a private model: a `keras_dp.DPModel`, "
            "`DPSequential` or `keras_dp.make_private(model)`. "
            f"Received: {type(model).__name__}."
        )
    if not model.built and type(model).build is keras.Model.build:
        raise ValueError(
            "The build function must return a model that is built, or whose class has a `build` "
            "method: the best one is built again, and its weights are loaded. Call the model on "
            f"`keras.Input(...)` in the build function. Received: {type(model).__name__}."
        )
    planning.check_compiled(model)
    if model.budget != budget:
        raise ValueError(
            "The build function must compile with the budget of the search, so that the model "
            f"keeps to it afterwards too: `budget={budget}`. Received: {model.budget}."
        )
    noise = model.optimizer.noise_multiplier
    if noise is not None:
        raise ValueError(
            "The build function must make a new model in every call and leave "
            "`noise_multiplier=None`: the search settles it from the budget, one for all runs. "
            f"Received: {noise:g}."
        )
    if model.optimizer.seed is not None:
        raise ValueError(
            "The build function must leave `seed=None` in the optimizer: runs that share a "
            f"seed share their noise. Received: {model.optimizer.seed!r}."
        )


def _parts(model: Any) -> list[Any]:
    return [model, model.optimizer, *model.trainable_variables]


def _shown(model: Any) -> tuple[str, ...] | None:
    return None if model.private_metrics is None else tuple(model.private_metrics.names)


def _hypermodel(hypermodel: Any) -> Any:
    if isinstance(hypermodel, keras_tuner.HyperModel):
        return hypermodel
    if not callable(hypermodel):
        raise ValueError(
            "`hypermodel` must be a function from hyper-parameters to a compiled private model, or "
            f"a `keras_tuner.HyperModel`. Received: {hypermodel!r}."
        )
    return _FromFunction(hypermodel)


class _FromFunction(keras_tuner.HyperModel):
    def __init__(self, function: Build) -> None:
        self._function = function
        super().__init__()

    def build(self, hp: Any) -> Any:
        return self._function(hp)
