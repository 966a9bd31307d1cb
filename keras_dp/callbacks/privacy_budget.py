"""`PrivacyBudget`: stop `fit` at a budget, and show epsilon on the way."""

from typing import Any

import keras

from keras_dp.errors import NotPrivateError
from keras_dp.plan import Budget
from keras_dp.training import PrivateTraining


class PrivacyBudget(keras.callbacks.Callback):
    """Stops `fit` before the update that would pass the budget, and logs epsilon every epoch.

    With it, a `fit` that plans more updates than the model's own budget allows trains as far as
    both budgets go and stops cleanly, instead of being refused.

    Args:
        epsilon: Float above 0, the epsilon not to pass.
        delta: Float in (0, 1), the delta at which it is measured and shown.
        accountant: `"pld"` (default), `"rdp"` or `"rdp_classic"`.

    Raises:
        PrivacyBudgetExceeded: when training begins and not one more update fits.
        NotPrivateError: when the model does not train privately.

    Privacy:
        `epsilon` in the logs counts all updates in the model's ledger, those of earlier fits
        included. The number of updates that fit is settled once, when training begins.

    Example:
        >>> callback = keras_dp.callbacks.PrivacyBudget(epsilon=3.0, delta=1e-5)
        >>> callback.budget
        Budget(epsilon=3.0, delta=1e-05, accountant='pld')
    """

    writes_logs = True
    """Called before other callbacks, so that they all see `epsilon` in the logs."""

    def __init__(self, epsilon: float, delta: float, accountant: str = "pld") -> None:
        super().__init__()
        self.budget = Budget(epsilon, delta, accountant)

    def on_train_begin(self, logs: Any = None) -> None:
        """Ask the model to stop at the budget."""
        del logs
        if not isinstance(self.model, PrivateTraining):
            raise NotPrivateError(
                "`PrivacyBudget` works with private models only, since nothing else spends a "
                "budget. Train a `keras_dp.DPModel`, or `keras_dp.make_private(model)`. Received: "
                f"{type(self.model).__name__}."
            )
        self.model.stop_at(self.budget)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write `epsilon`, spent so far, into the epoch's logs."""
        del epoch
        if logs is not None:
            spent = self.model.privacy_spent(self.budget.delta, self.budget.accountant)
            logs["epsilon"] = spent.epsilon
