"""The limit of one run in a search: the search is counted by the dearest run that it allows."""

import numpy as np

from keras_dp import validation
from keras_dp.accounting import rdp
from keras_dp.accounting.accountant import spent
from keras_dp.accounting.composition import composition_of
from keras_dp.accounting.guard import BudgetGuard
from keras_dp.accounting.ledger import Ledger, Release
from keras_dp.errors import PrivacyBudgetExceeded
from keras_dp.plan import Budget, PrivacyPlan


class RunGuard(BudgetGuard):
    """Admits the updates of one run, for as long as it costs no more than the search says.

    It counts them in a ledger of its own. They are no releases of the model: what is published is
    the best of the runs, and the model's ledger counts that already, as a whole.

    Args:
        search: The search, as the model's ledger counts it.
        budget: The promise of the model, for messages; the search keeps within it.
        charged: The model's ledger.

    Privacy:
        A run that is admitted has at every Renyi order at most the divergence of
        `search.updates` updates under `search.plan`, so the search's bound, which rests on these
        orders alone, holds for runs that differ.
    """

    def __init__(self, search: Release, budget: Budget | None, charged: Ledger) -> None:
        super().__init__(Ledger(), budget)
        self._search, self._charged = search, charged
        self._declared = _curve((Release(search.plan, search.updates, "declared"),))

    @property
    def charged(self) -> Ledger:
        """Where the search is counted."""
        return self._charged

    def within(self, budget: Budget, plan: PrivacyPlan, at_most: int) -> int:
        """Return `at_most` when the search as a whole fits into another budget, else 0.

        Fewer updates in this run would not make the search cheaper.
        """
        del plan
        epsilon = spent(self._charged.releases, budget.delta, budget.accountant)
        return at_most if epsilon <= budget.epsilon else 0

    def allowance(self, plan: PrivacyPlan, at_most: int = 1) -> int:
        """Return `at_most` when so many more updates under `plan` are within the run.

        Raises:
            PrivacyBudgetExceeded: when they are not; the message says how many are.
            ValueError: when `plan` cannot be accounted for.
        """
        planned = validation.positive_int("at_most", at_most)
        left = self._most(plan, planned)
        if left < planned:
            raise PrivacyBudgetExceeded(self._beyond(plan, planned, left))
        self._left, self._plan, self._expected = left, plan, self._ledger.updates
        return left

    def admit(self, plan: PrivacyPlan) -> None:
        """Count one update under `plan`, before it is made, or refuse it.

        Raises:
            PrivacyBudgetExceeded: when it is not within the run. Nothing is counted.
            ValueError: when `plan` cannot be accounted for.
        """
        if not self._is_remembered(plan):
            self.allowance(plan)
        self._ledger.record(plan)
        self._left -= 1
        self._expected += 1

    def _most(self, plan: PrivacyPlan, planned: int) -> int:
        """Return the largest number of updates, at most `planned`, that is within the run."""
        others, made = self._ledger.ahead_of(plan)

        def fits(count: int) -> bool:
            run = _curve((*others, Release(plan, made + count, "planned")))
            return bool(np.all(run.divergences <= self._declared.divergences))

        low, high = 0, planned + 1
        probe = planned
        while high - low > 1:
            low, high = (probe, high) if fits(probe) else (low, probe)
            probe = (low + high) // 2
        return low

    def _beyond(self, plan: PrivacyPlan, planned: int, left: int) -> str:
        return (
            "Every run of a search must cost at most what the search was opened with: "
            f"{_described(self._search.plan, self._search.updates)}. Received: "
            f"{_described(plan, planned)} after {self._ledger.updates} made before, of which "
            f"{left} fit. No update was made. Runs may differ in clip norm, learning rate and "
            "architecture; open the search with the largest batch and the most epochs of any."
        )


def _curve(releases: tuple[Release, ...]) -> rdp.Curve:
    return rdp.curve(composition_of(releases))


def _described(plan: PrivacyPlan, updates: int) -> str:
    return (
        f"{updates} updates with noise multiplier {plan.noise_multiplier:g}, batch size "
        f"{plan.batch_size} of {plan.dataset_size} examples, sampling {plan.sampling!r}"
    )
