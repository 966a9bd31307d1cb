"""Hyper-parameter search with KerasTuner, whose cost is counted: `PrivateRandomSearch`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_dp.tuning.random_search import PrivateRandomSearch as PrivateRandomSearch

__all__ = ["PrivateRandomSearch"]


def __getattr__(name: str) -> Any:
    """Import KerasTuner when it is first needed, and say how to get it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from keras_dp.tuning import random_search
    except ModuleNotFoundError as error:
        raise ImportError(
            f"`keras_dp.tuning.{name}` needs KerasTuner. Install it with "
            f"`pip install 'keras-dp[tuning]'`. ({error})"
        ) from error
    return getattr(random_search, name)
