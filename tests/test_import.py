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


NO_LIBRARY = """
import sys
sys.modules.update(dict.fromkeys(["jax", "tensorflow", "torch"]))
"""


@pytest.mark.parametrize(
    ("backend", "hidden", "extra"),
    [("numpy", "", "jax"), ("openvino", "", "jax"), ("torch", NO_LIBRARY, "torch")]
    + [("tensorflow", NO_LIBRARY, "tensorflow"), ("jax", NO_LIBRARY, "jax")],
)
def test_accounting_works_and_models_say_what_to_install_without_a_backend(backend, hidden, extra):
    done = run(
        f"{hidden}import keras_dp\n"
        "print(keras_dp.accounting.epsilon(noise_multiplier=1.0, batch_size=10, dataset_size=100,"
        " updates=10, delta=1e-3))\n"
        "keras_dp.DPModel\n",
        KERAS_BACKEND=backend,
    )
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
