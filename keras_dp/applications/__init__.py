"""Ready-made private models."""

from keras_dp.applications.tanh_cnn import TanhCNN

__all__ = ["TanhCNN"]
