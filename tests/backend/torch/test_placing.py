"""Where tensors lie: one device, and no other without a word."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import torch

import keras_dp
from keras_dp import backend
from keras_dp.optimizers import DPSGD
from tests.kinds import L


def tiny():
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, L.Dense(2, name="head")(inputs))
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    return model


def test_a_model_with_variables_on_another_device_is_refused():
    elsewhere = SimpleNamespace(path="head/kernel", value=torch.zeros(2, device="meta"))
    with pytest.raises(ValueError, match=r"on one device, cpu here.*'head/kernel' \(on meta\)"):
        backend.placement().misplaced([*tiny().variables, elsewhere])


def test_weights_on_several_devices_are_refused_before_any_update():
    model = tiny()
    with keras.device("meta"):
        model.add_weight(shape=(2,), name="elsewhere")
    with pytest.raises(ValueError, match=r"elsewhere' \(on meta\).*same `keras.device`"):
        model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    assert model.ledger.updates == 0


def test_a_distribution_is_refused_before_any_update(monkeypatch):
    model = tiny()
    monkeypatch.setattr(keras.distribution, "distribution", lambda: SimpleNamespace())
    with pytest.raises(ValueError, match=r"torch backend runs on one device.*SimpleNamespace"):
        model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    assert model.ledger.updates == 0


def test_rows_are_put_on_the_device_in_default_precision():
    x, y = np.ones((3, 2)), np.arange(3)
    rows = backend.placement().take(lambda at: (x[at], y[at], None), np.array([2, 0]))
    assert [None if row is None else row.dtype for row in rows] == [
        torch.float32,
        torch.int64,
        None,
    ]
    assert rows[1].tolist() == [2, 0]
