"""`PrivateTraining`: Keras' training methods, made private."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_dp import accounting, backend, planning, step, validation, watching
from keras_dp.accounting import BudgetGuard, PrivacySpent, PrivacyStatement
from keras_dp.augmentation import Augmentation
from keras_dp.backend import Report
from keras_dp.errors import NotPrivateError
from keras_dp.evaluating import Evaluating
from keras_dp.executor import UpdateFunction
from keras_dp.fitting import Opening, Updates, where_it_was_made, with_opening
from keras_dp.plan import Budget
from keras_dp.private_metrics import PrivateMetrics
from keras_dp.run import PrivateRun
from keras_dp.sampling import Poisson, Sampler, Source, as_source, resolve
from keras_dp.showing import MetricsShowing
from keras_dp.storing import LedgerStoring


class PrivateTraining(MetricsShowing, Evaluating, LedgerStoring):
    """Mixin for `keras.Model` classes: `compile`, `fit` and `train_on_batch` train privately.

    Everything that does not train (`evaluate`, `predict`, layers, saving) is Keras' own.
    """

    active_run: PrivateRun | None = None
    budget: Budget | None = None
    sampler: Sampler = Poisson()
    microbatch_size: int | None = None
    view_maker: Augmentation | None = None
    train_function: Any
    _traced: Any = None
    _one_example: bool = False

    def compile(
        self,
        optimizer: Any = None,
        *args: Any,
        budget: Budget | None = None,
        sampling: str | Sampler = "poisson",
        microbatch_size: int | None = None,
        private_metrics: PrivateMetrics | None = None,
        ledger_file: str | os.PathLike[str] | None = None,
        augmentation: Any = None,
        augmentations: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Configure private training.

        Args:
            optimizer: A `keras_dp.optimizers.DPOptimizer`, which carries clip norm and noise.
            *args: Further arguments of `keras.Model.compile`: `loss`, `loss_weights`, `metrics`.
            budget: `Budget(epsilon, delta)` that no update may pass, or `None` for no limit.
            sampling: How an update's examples are drawn: `"poisson"` (default), `"full_batch"` or
                a `keras_dp.sampling` object; or what you state about a stream of batches, with
                `keras_dp.sampling.Stream(...)` or `PoissonStream(...)`.
            microbatch_size: Examples on the device at a time; `None` (default): as many as fit the
                memory, or a CPU's caches. It changes speed and memory, never the result.
            private_metrics: `keras_dp.PrivateMetrics(...)` to show noised means in the training
                logs; `None` (default): exact ones, which the guarantee does not cover.
            ledger_file: Path of a ledger on disk, made if it is not there. Every update is written
                to it before it is made, so that not even a killed process forgets one, and all
                that it holds counts: use one file for all models that are trained on the same data
                under one budget. `None` (default): the ledger travels with the weights alone. The
                path is not saved with the model.
            augmentation: A Keras or KerasCV layer, or a function `augmentation(x, seed)`, that
                makes random views of the inputs `x`, in training only.
            augmentations: Number of views of an example in an update, 1 by default. An example's
                loss is the mean of its views', before its gradient, at no privacy cost.
            **kwargs: Further arguments of `keras.Model.compile`.

        Raises:
            NotPrivateError: for an optimizer that is not private, or a class that overrides
                `train_step`.
            ValueError: for bad settings.
            LedgerFileError: for a ledger on disk that is damaged, in use or cannot be written.

        Privacy:
            The loss is computed for one example at a time: `reduction="sum_over_batch_size"` then
            means the average over the one example's own positions, and what a loss adds is
            divided by the declared batch size. The ledger of past updates is kept.
        """
        optimizer = None if optimizer is None else keras.optimizers.get(optimizer)
        planning.check_optimizer(optimizer)
        planning.check_class(type(self), PrivateTraining)
        planning.check_budget(budget)
        sampler, views = resolve(sampling), Augmentation.resolve(augmentation, augmentations)
        if microbatch_size is not None:
            microbatch_size = validation.positive_int("microbatch_size", microbatch_size)
        # Keras' loss scale follows private gradients; clipping/loss_scale.py has the private one.
        optimizer.serve_private_model()
        super().compile(optimizer, *args, **{**kwargs, "auto_scale_loss": False})
        self.budget, self.sampler, self.view_maker = budget, sampler, views
        self.microbatch_size = microbatch_size
        self._prepared_for: Any = None
        self.show(private_metrics)
        if ledger_file is not None:
            self.keep_ledger_in(ledger_file)
        self._guard = BudgetGuard(self.ledger, budget)

    @where_it_was_made
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
    ) -> Any:
        """Train privately; the arguments are those of `keras.Model.fit`.

        A step is an update. An epoch is `round(n / batch_size)` updates, or `steps_per_epoch`.

        Args:
            x: Training data that can be read at any position: arrays or a nested structure of
                them, a `keras.utils.PyDataset`, or data that give single examples, such as those
                of Grain, TFDS and PyTorch. With `sampling=keras_dp.sampling.Stream(...)`: an
                iterable of batches.
            y: Targets, where `x` is arrays.
            batch_size: Expected number of examples in an update. Default: the length of the
                batches where data come in batches, all with `sampling="full_batch"`, else 32.
            epochs: Number of the last epoch.
            verbose: As in Keras.
            callbacks: As in Keras; steps and batches that they count are updates.
            validation_split: Fraction of the data, taken from its end, that is held out.
            validation_data: As in Keras, or any data that `x` may be.
            shuffle: Must be true: the examples of an update are drawn at random.
            class_weight: Dict from class index to weight.
            sample_weight: Weights of the examples.
            initial_epoch: Number of the first epoch.
            steps_per_epoch: Updates in an epoch.
            validation_steps: As in Keras.
            validation_batch_size: As in Keras; default `batch_size`, at most 1,024.
            validation_freq: As in Keras.

        Returns:
            Keras' `History`.

        Raises:
            PrivacyBudgetExceeded: before the first update, when the planned updates would pass
                the budget and no `callbacks.PrivacyBudget` asks for a clean stop at it.
            NotPrivateError: for a model or data source that cannot be trained privately.
            ValueError: for bad arguments or data.

        Privacy:
            Every update is written to the ledger before it is made. The losses and metrics shown
            are exact functions of the training data and not covered by the guarantee.
        """
        planning.check_compiled(self)
        planning.check_shuffle(shuffle)
        data = (x, y, sample_weight, class_weight)
        source = self._source(*data, sampler=self.sampler, steps_per_epoch=steps_per_epoch)
        split = bool(validation_split) and validation_data is None
        if split:
            source, validation_data = source.split(validation_split)
        batch_size = planning.choose_batch_size(batch_size, steps_per_epoch, source, self.sampler)
        steps = planning.steps_of_epoch(source, batch_size, steps_per_epoch)
        self._prepare(source)
        run = planning.plan_run(self, source, self.sampler, batch_size, self._guard)
        shown = () if self.private_metrics is None else self.private_metrics.names
        notes = watching.notes(callbacks, shown, split)
        opening = Opening(run, epochs, steps, initial_epoch, notes)
        with self._running(run), backend.already_sharded():
            return super().fit(
                Updates(steps, backend.placement()),
                epochs=epochs,
                verbose=verbose,
                callbacks=with_opening(callbacks, opening, self),
                validation_data=self.held_out(validation_data, validation_batch_size or batch_size),
                shuffle=False,
                initial_epoch=initial_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size or min(batch_size, 1024),
                validation_freq=validation_freq,
            )

    @where_it_was_made
    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Make one private update on a batch that the caller chose.

        Args:
            x: Inputs of the batch.
            y: Targets of the batch.
            sample_weight: Weights of the examples.
            class_weight: Dict from class index to weight.
            return_dict: Whether to return a dict of results.

        Returns:
            Loss and metrics as in Keras.

        Raises:
            PrivacyBudgetExceeded: when the update would pass the budget; nothing is changed.
            ValueError: when the noise multiplier is not settled yet, or for bad data.

        Privacy:
            Accounted without amplification, as one Gaussian mechanism: how the batch was chosen
            is unknown. `fit` draws its own batches and pays much less.
        """
        planning.check_compiled(self)
        source = self._source(x, y, sample_weight, class_weight, sampler=None)
        self._prepare(source)
        run = planning.plan_run(self, source, None, source.size, self._guard)
        planning.check_noise_settled(run)
        with self._running(run):
            slot = backend.placement().slot()  # the train function takes the rows from the run
            return super().train_on_batch(slot, return_dict=return_dict)

    def train_step(self, *arguments: Any) -> tuple[dict[str, Any], step.State]:
        """Make one whole private update; called by the train function, not by users.

        Args:
            *arguments: Keras' training state, and a drawn batch with the mechanism to privatize it
                with. Ordinary Keras data raise `NotPrivateError`.
        """
        data: Any = arguments[-1] if len(arguments) == 2 else ()
        if not (len(data) == 2 and isinstance(data[1], step.Mechanism)):
            raise NotPrivateError(
                "`DPModel.train_step` takes examples that were drawn and accounted for. Train with "
                "`fit` or `train_on_batch`."
            )
        state = step.update(self, self.advance_state, arguments[0], *data)
        return backend.report(self, state[3]), state

    def make_train_function(self, force: bool = False) -> None:
        """Make the function that Keras' loop calls for every step, which is a private update."""
        made = self.train_function
        known = isinstance(made, backend.TrainFunction)
        if force or not (known and made.update.placement == backend.placement()):
            self.train_function = backend.train_function(UpdateFunction(self))

    def privacy_spent(
        self, delta: float | None = None, accountant: str | None = None
    ) -> PrivacySpent:
        """Return what all updates so far have cost.

        Args:
            delta: Float in (0, 1); default: the budget's.
            accountant: `"pld"`, `"rdp"` or `"rdp_classic"`; default: the budget's, else `"pld"`.

        Returns:
            `PrivacySpent(epsilon, delta, updates, accountant, sampling, neighbouring_relation)`.

        Raises:
            ValueError: when neither `delta` nor a budget is given.
        """
        terms = accounting.terms(self.budget, delta, accountant)
        return accounting.privacy_spent(self.ledger, *terms)

    def privacy_statement(
        self,
        delta: float | None = None,
        accountant: str | None = None,
        group_sizes: Sequence[int] = accounting.GROUP_SIZES,
    ) -> PrivacyStatement:
        """Return what was promised, in plain words.

        `.to_dict()` gives it to machines, `.to_markdown()` as a page to publish with the model.

        Args:
            delta: Float in (0, 1); default: the budget's.
            accountant: `"pld"`, `"rdp"` or `"rdp_classic"`; default: the budget's, else `"pld"`.
            group_sizes: Numbers of rows that one person may have; each gets an epsilon.

        Raises:
            ValueError: when neither `delta` nor a budget is given.
        """
        terms = accounting.terms(self.budget, delta, accountant)
        return accounting.build_statement(
            self.ledger, *terms, budget=self.budget, group_sizes=group_sizes
        )

    def stop_at(self, budget: Budget) -> None:
        """Ask the running `fit` to stop before the update that would pass this budget."""
        if self.active_run is not None:
            self.active_run.stop_budgets.append(budget)

    def summary(self, *args: Any, clipping: bool = False, **kwargs: Any) -> None:
        """Print Keras' summary, then the settings of private training.

        Args:
            *args: As in Keras.
            clipping: Whether to add the table of `keras_dp.clipping.explain`; it is known after
                the first `fit` or `explain`.
            **kwargs: As in Keras.

        Raises:
            ValueError: when `clipping` is asked for too early.
        """
        if clipping and self._traced is None:
            raise ValueError(
                "`summary(clipping=True)` needs the shapes of the training data. Call `fit` or "
                "`keras_dp.clipping.explain(model, x, y)` first."
            )
        super().summary(*args, **kwargs)
        write = kwargs.get("print_fn") or (lambda line: sys.stdout.write(f"{line}\n"))
        write(planning.describe(self))
        if clipping:
            write(str(self.report))

    @property
    def advance_state(self) -> Any:
        """The function that moves the non-trainable variables on in an update."""
        return self._traced.advance

    @property
    def report(self) -> Report | None:
        """Where weights meet data and what clipping costs there, once shapes are known."""
        return None if self._traced is None else self._traced.report

    def clipping_report(self, x: Any, y: Any = None, sample_weight: Any = None) -> Report:
        """Return where weights meet data and what clipping costs there; see `clipping.explain`.

        Args:
            x: Inputs, as for `fit`; of the data only shapes and types are used.
            y: Targets.
            sample_weight: Weights of the examples.

        Raises:
            NotPrivateError: for a model that cannot be trained privately.
            ValueError: when the model is not compiled.
        """
        planning.check_compiled(self)
        self._prepare(self._source(x, y, sample_weight, sampler=self.sampler))
        return self._traced.report

    @contextlib.contextmanager
    def example_by_example(self) -> Iterator[None]:
        """Leave weight regularizers out of the losses, while one example's loss is computed."""
        self._one_example = True
        try:
            with backend.undistributed():
                yield
        finally:
            self._one_example = False

    def regularization_losses(self) -> list[Any]:
        """Return the losses of the weight regularizers, which depend on no data."""
        return list(super()._get_regularization_losses())

    def _get_regularization_losses(self) -> list[Any]:
        return [] if self._one_example else self.regularization_losses()

    def _source(self, *data: Any, **settings: Any) -> Source:
        return as_source(*data, **settings, preprocess=self.row_preprocessing)

    def _prepare(self, source: Source) -> None:
        """Build all that is unbuilt and refuse what cannot be private, before any update."""
        rows = source.first()
        planning.check_targets(self, rows)
        rows, views = planning.viewed(self.view_maker, rows)
        self._symbolic_build(data_batch=rows)
        planning.check_placement(self)
        key = planning.preparation_key(self, rows)
        if key == self._prepared_for:
            return
        traced = backend.trace_example(self, views)
        planning.check_state(self, traced.data_dependent)
        self._traced = traced
        self.train_function = None
        self._prepared_for = key

    @contextlib.contextmanager
    def _running(self, run: PrivateRun) -> Iterator[None]:
        self.active_run = run
        try:
            yield
        finally:
            self.active_run = None
