"""What every test and every doctest starts from: Keras on the CPU, on JAX unless said otherwise."""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

# The tests compile the same programs again and again, in several processes: once is enough.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="keras_dp-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Before anything imports Keras or JAX, because both choose once.
os.environ.setdefault("KERAS_BACKEND", "jax")
BACKEND = os.environ["KERAS_BACKEND"]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight devices, of which all tests but those of meshes use the first one.
FLAGS = "--xla_force_host_platform_device_count=8"
# The tests compile far longer than they compute, so XLA is to write machine code fast rather than
# well: it takes half the time, and what is written is the same program. Later releases end the
# process at a flag that they do not know; there XLA writes what users get (`make test-newest`).
if BACKEND == "jax" and version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FLAGS)
if BACKEND != "jax":  # models this small run fastest on one thread, beside other processes
    for setting in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(setting, "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from hypothesis import settings

import keras_dp

if BACKEND == "tensorflow":
    import tensorflow as tf

    # Three devices, of which all tests but those of replicas use the first one.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 3
    )

EVERYWHERE = {"accounting", "contract", "sampling"}
"""Folders of tests that run on every backend; those of one alone are `tests/backend/<name>`."""


def pytest_ignore_collect(collection_path, config):
    """Leave out what belongs to another backend: on all but JAX, what is not named here."""
    parts = Path(collection_path).relative_to(config.rootpath).parts
    if len(parts) < 2 or parts[0] not in ("tests", "keras_dp"):
        return None
    others = {"jax", "tensorflow", "torch"} - {BACKEND}
    if parts[1] == "backend" and others.intersection(parts[2:3]):
        return True
    if BACKEND == "jax":
        return None
    ours = parts[1] in EVERYWHERE or parts[1:3] in (("backend",), ("backend", BACKEND))
    return None if parts[0] == "tests" and ours else True


# The same examples in every run: a test fails because of a change, or not at all.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def shared_doctest_names(doctest_namespace):
    """Let docstring examples use `keras`, `keras_dp` and `np` without importing them."""
    doctest_namespace.update(keras=keras, keras_dp=keras_dp, np=np)


@pytest.fixture(scope="module")
def unoptimized():
    """Let XLA optimize nothing, on JAX: for modules whose tests compile long and compute little.

    It may then compute the same value differently in two places, so that no number equals a maximum
    and sums differ in their last bit: not for tests of such numbers.
    """
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
