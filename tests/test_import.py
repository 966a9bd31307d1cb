"""The package imports without a usable Keras backend, and says what is missing."""

import os
import subprocess
import sys

import pytest

import keras_dp


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


NOTHING_INSTALLED = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in ("jax", "tensorflow", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""
USED = """
import keras_dp
print(keras_dp.accounting.epsilon(
    noise_multiplier=1.0, batch_size=10, dataset_size=100, updates=10, delta=1e-3))
keras_dp.DPModel
"""


@pytest.mark.parametrize(
    ("backend", "before", "extra"),
    [
        ("numpy", "", "jax"),
        ("openvino", "", "jax"),
        ("jax", NOTHING_INSTALLED, "jax"),
        ("tensorflow", NOTHING_INSTALLED, "tensorflow"),
        ("torch", NOTHING_INSTALLED, "torch"),
    ],
)
def test_accounting_works_and_models_say_what_to_install_without_a_backend(backend, before, extra):
    done = run(before + USED, KERAS_BACKEND=backend)
    assert float(done.stdout) > 0
    assert done.returncode == 1
    assert "`keras_dp.DPModel` needs Keras on the JAX, TensorFlow or PyTorch" in done.stderr
    assert f"pip install 'keras-dp[{extra}]'" in done.stderr
    assert f"KERAS_BACKEND={extra}" in done.stderr


def test_unknown_names_are_ordinary_attribute_errors():
    done = run("import keras_dp; keras_dp.nothing", KERAS_BACKEND="numpy")
    assert "AttributeError: module 'keras_dp' has no attribute 'nothing'" in done.stderr


def test_every_public_name_is_there():
    for name in keras_dp.__all__:
        assert getattr(keras_dp, name) is not None
