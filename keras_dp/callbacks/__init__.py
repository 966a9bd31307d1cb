"""Callbacks for private training."""

from keras_dp.callbacks.privacy_budget import PrivacyBudget

__all__ = ["PrivacyBudget"]
