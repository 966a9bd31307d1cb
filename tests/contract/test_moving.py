"""A model's file goes from backend to backend: training goes on, and everything counts."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_dp import accounting
from tests.contract import moved

OTHERS = ("jax", "torch", "tensorflow")
PYTHONS = {
    name: os.environ.get(f"KERAS_DP_{name.upper()}_PYTHON")
    or (sys.executable if importlib.util.find_spec(name) else None)
    for name in OTHERS
}
"""What runs a backend: the interpreter that the environment names, or this one."""

ROUND = [keras.backend.backend()]
ROUND += [name for name in OTHERS if name not in ROUND and PYTHONS[name]]
"""This backend, then all others that are there."""


@pytest.fixture(scope="module")
def stations(tmp_path_factory):
    """What a model was like on each backend, where it was trained for ten updates."""
    folder, before, found = tmp_path_factory.mktemp("moved"), "", []
    for backend in ROUND:
        after = str(folder / f"{backend}.keras")
        done = subprocess.run(
            [PYTHONS[backend], "-m", "tests.contract.moved", before, after],
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
        before = after
    return found


def test_weights_and_optimizer_arrive_as_they_left(stations):
    assert [station["backend"] for station in stations] == ROUND
    for left, arrived in itertools.pairwise(stations):
        for old, new in zip(left["after"], arrived["before"], strict=True):
            np.testing.assert_array_equal(old, new)
        assert arrived["before"] != arrived["after"]


def test_all_updates_count_and_epsilon_is_that_of_one_run(stations):
    for number, station in enumerate(stations, 1):
        updates = number * moved.UPDATES
        expected = accounting.epsilon(**moved.SETTINGS, updates=updates, delta=1e-3)
        assert station["updates"] == updates
        assert station["epsilon"] == pytest.approx(expected, rel=1e-9)
        assert f"{updates} updates" in station["statement"]
