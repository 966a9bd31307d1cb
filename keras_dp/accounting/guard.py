"""The limit itself: no update passes the budget, at the cost of an integer per update."""

from keras_dp import validation
from keras_dp.accounting.accountant import spent
from keras_dp.accounting.calibration import updates_within
from keras_dp.accounting.ledger import Ledger
from keras_dp.errors import PrivacyBudgetExceeded
from keras_dp.plan import Budget, PrivacyPlan

_AT_A_TIME = 1024


class BudgetGuard:
    """Admits updates into a ledger for as long as they stay within a budget.

    The accountant is asked once for up to 1024 updates; in between, admitting one subtracts from
    an integer. It is asked again when the plan changes, when somebody else recorded or merged into
    the ledger, and when the allowance is used up.

    Args:
        ledger: The ledger to read and to record in.
        budget: The promise; None admits everything, and still records it.

    Privacy:
        An update that would pass the budget is refused before it is recorded or made.
    """

    def __init__(self, ledger: Ledger, budget: Budget | None) -> None:
        self._ledger = ledger
        self._budget = budget
        self._plan: PrivacyPlan | None = None
        self._left = 0
        self._expected = -1

    @property
    def ledger(self) -> Ledger:
        """Where the updates are recorded."""
        return self._ledger

    @property
    def charged(self) -> Ledger:
        """Where all that is released of the model is counted."""
        return self._ledger

    @property
    def budget(self) -> Budget | None:
        """The promise that is guarded."""
        return self._budget

    @property
    def remaining(self) -> int | None:
        """Updates of the last plan that are admitted without asking the accountant again.

        A lower bound of what the budget allows, 0 before the first question; None without budget.
        """
        if self._budget is None:
            return None
        return self._left if self._ledger.updates == self._expected else 0

    def allowance(self, plan: PrivacyPlan, at_most: int = _AT_A_TIME) -> int:
        """Return how many more updates under `plan` fit, at most `at_most`, and remember it.

        Raises:
            ValueError: when `plan` cannot be accounted for, or `at_most` is not above 0.
        """
        left = validation.positive_int("at_most", at_most)
        if self._budget is not None:
            left = updates_within(self._budget, plan, left, *self._ledger.ahead_of(plan))
        self._left, self._plan, self._expected = left, plan, self._ledger.updates
        return left

    def within(self, budget: Budget, plan: PrivacyPlan, at_most: int) -> int:
        """Return how many more updates under `plan`, at most `at_most`, fit into another budget."""
        return updates_within(budget, plan, at_most, self._ledger.releases)

    def admit(self, plan: PrivacyPlan) -> None:
        """Record one update under `plan`, before it is made, or refuse it.

        Raises:
            PrivacyBudgetExceeded: when the update would pass the budget. Nothing is recorded.
            ValueError: when `plan` cannot be accounted for.
        """
        if self._budget is None:
            self._ledger.record(plan)
            return
        if not self._is_remembered(plan) and self.allowance(plan) < 1:
            raise PrivacyBudgetExceeded(self._refusal(self._budget, plan))
        self._ledger.record(plan)
        self._left -= 1
        self._expected += 1

    def _is_remembered(self, plan: PrivacyPlan) -> bool:
        same_plan = plan is self._plan or plan == self._plan
        return same_plan and self._left > 0 and self._ledger.updates == self._expected

    def _refusal(self, budget: Budget, plan: PrivacyPlan) -> str:
        epsilon = spent(self._ledger.releases, budget.delta, budget.accountant)
        return (
            f"The next update would pass the privacy budget of epsilon {budget.epsilon:g} at delta "
            f"{budget.delta:g} (accountant {budget.accountant!r}), so it was not made. "
            f"Spent so far: epsilon {epsilon:.6g} in {self._ledger.updates} updates. "
            f"Refused: one update with noise multiplier {plan.noise_multiplier:g}, batch size "
            f"{plan.batch_size} of {plan.dataset_size} examples, sampling {plan.sampling!r}. "
            "Stop here and keep the model as it is, or promise a larger epsilon with "
            "`keras_dp.Budget`; for more updates within this one, start again from fresh weights "
            "with more noise."
        )
