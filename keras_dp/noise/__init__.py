"""Gaussian noise, its keys, and the one place where it is added."""

from keras_dp.noise.gaussian import add_noise, noise_key

__all__ = ["add_noise", "noise_key"]
