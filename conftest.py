"""What every test and every doctest starts from: Keras on JAX, on the CPU."""

import os

# Before anything imports Keras or JAX, because both choose once.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import keras
import numpy as np
import pytest
from hypothesis import settings

import keras_dp

# The same examples in every run: a test fails because of a change, or not at all.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def shared_doctest_names(doctest_namespace):
    """Let docstring examples use `keras`, `keras_dp` and `np` without importing them."""
    doctest_namespace.update(keras=keras, keras_dp=keras_dp, np=np)
