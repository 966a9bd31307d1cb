"""keras_dp: private deep learning for Keras 3.

Swap `keras.Model` for `DPModel` and the optimizer for a DP one, state a `Budget`, call `fit`.
"""

from keras_dp import accounting
from keras_dp.errors import LedgerFileError, NotPrivateError, PrivacyBudgetExceeded
from keras_dp.plan import Budget
from keras_dp.version import __version__

__all__ = [
    "Budget",
    "DPModel",
    "DPSequential",
    "NotPrivateError",
    "LedgerFileError",
    "PrivacyBudgetExceeded",
    "PrivateMetrics",
    "__version__",
    "accounting",
    "applications",
    "auditing",
    "callbacks",
    "clipping",
    "make_private",
    "optimizers",
    "sampling",
    "tuning",
]

try:
    from keras_dp import (
        applications,
        auditing,
        callbacks,
        clipping,
        optimizers,
        sampling,
        tuning,
    )
    from keras_dp.model import DPModel, DPSequential, make_private
    from keras_dp.private_metrics import PrivateMetrics
except ImportError as error:
    # Keras cannot be imported with its active backend. Accounting and the command line need none,
    # so they go on; every other name says what is missing.
    _missing = error
    _extra = error.name if error.name in ("jax", "tensorflow", "torch") else "jax"

    def __getattr__(name: str) -> object:
        if name in __all__:
            raise ImportError(
                f"`keras_dp.{name}` needs Keras on the JAX, TensorFlow or PyTorch backend. Run "
                f"`pip install 'keras-dp[{_extra}]'` and set the environment variable "
                f"KERAS_BACKEND={_extra} before Keras is imported; the others are called jax, "
                f"tensorflow and torch. ({_missing})"
            ) from _missing
        raise AttributeError(f"module 'keras_dp' has no attribute {name!r}")
