"""Which hyper-parameters a run gets, and whether there is another run."""

from typing import Any

import keras_tuner
from keras_tuner.engine import trial as trials

from keras_dp import keys
from keras_dp.accounting import BestOf, Ledger, Release


class IndependentRuns(keras_tuner.Oracle):
    """Draws the hyper-parameters of every run anew, from one distribution.

    Unlike KerasTuner's random search it draws the same values again if chance has it so: leaving
    out what was tried would make a run depend on those before. A run that fails is not tried
    again, since that would give it two chances; it is never the best one.

    Whether another run follows is decided when one has ended. What was decided is on disk before
    it takes effect, so an interrupted search goes on as it would have.

    Args:
        objective: As in KerasTuner.
        best_of: The distribution of the number of runs.
        hyperparameters: As in KerasTuner.
        seed: `None` for the operating system's entropy, or an integer.
    """

    def __init__(
        self, objective: Any, best_of: BestOf, hyperparameters: Any, seed: int | None
    ) -> None:
        super().__init__(
            objective=objective,
            hyperparameters=hyperparameters,
            max_retries_per_trial=0,
            max_consecutive_failed_trials=None,
        )
        self.best_of = best_of
        self.run_seed = seed
        self.ledger = Ledger()
        """What every model of the search is charged with, from the moment it is opened on."""
        self.finished = False
        self._search_id: str | None = None

    @property
    def search(self) -> Release | None:
        """The search as it is counted, or `None` before it is opened."""
        found = (release for release in self.ledger.releases if release.id == self._search_id)
        return next(found, None)

    def open(self, search: Release) -> None:
        """Charge every model with this search from now on."""
        self.ledger.add(search)
        self._search_id = search.id

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Draw the values of another run, or end the search.

        Args:
            trial_id: As in KerasTuner.
        """
        del trial_id
        made = len(self.trials)
        coin = self.number("number of runs", made, 53) / 2**53
        if self.finished or not self.best_of.goes_on(made, coin):
            self.finished = True
            self.save()
            return {"status": trials.TrialStatus.STOPPED, "values": None}
        return {"status": trials.TrialStatus.RUNNING, "values": self._values(made)}

    def number(self, purpose: str, run: int, bits: int) -> int:
        """Return a whole number below `2**bits`, drawn uniformly for one purpose in one run."""
        drawn = keys.update_key(self.run_seed, f"tuning/{purpose}", run, 8)
        return int.from_bytes(drawn, "big") >> (64 - bits)

    def keep_only(self, best: Any) -> None:
        """Forget all runs but this one, or all for `None`."""
        self.trials = {} if best is None else {best.trial_id: best}
        self.start_order, self.end_order = list(self.trials), list(self.trials)

    def names(self) -> list[str]:
        """Return the names of the metrics that runs are compared by."""
        several = getattr(self.objective, "name_to_direction", None)
        return list(several) if several else [self.objective.name]

    def get_state(self) -> dict[str, Any]:
        """Return what an interrupted search needs, and no more that tells of runs."""
        unused: dict[str, Any] = {"tried_so_far": [], "id_to_hash": {}, "run_times": {}}
        display: dict[str, Any] = {"search_start": None, "trial_start": {}, "trial_number": {}}
        own: dict[str, Any] = {"search": self._search_id, "finished": self.finished}
        own["ledger"] = self.ledger.get_config()
        return {**super().get_state(), **unused, "display": display, **own}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take up an interrupted search."""
        super().set_state(state)
        self.ledger = Ledger.from_config(state["ledger"])
        self._search_id, self.finished = state["search"], state["finished"]

    def _values(self, run: int) -> dict[str, Any]:
        drawn = keras_tuner.HyperParameters()
        for parameter in self.hyperparameters.space:
            drawn.merge([parameter])
            if drawn.is_active(parameter):
                seed = self.number(f"hyper-parameter {parameter.name}", run, 64)
                drawn.values[parameter.name] = parameter.random_sample(seed)
        return dict(drawn.values)
