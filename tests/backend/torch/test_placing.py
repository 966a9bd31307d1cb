"""Where tensors lie: one device, and no other without a word."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import keras_dp
from keras_dp import backend
from keras_dp.backend.torch import example
from keras_dp.backend.torch.clipping import assemble, recording, rules, standardised
from keras_dp.optimizers import DPSGD
from tests.contract import models
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


class OneDevice(TorchDispatchMode):
    """Raises an error for a call with tensors on two devices, numbers and copies apart."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = recording.tensors_of((args, kwargs))
        devices = {tensor.device.type for tensor in tensors if tensor.ndim}
        if len(devices) > 1 and "copy" not in func.__name__:
            raise RuntimeError(f"{func} has tensors on {sorted(devices)}")
        return func(*args, **(kwargs or {}))


def on(device, leaf):
    """A tensor without values, as the training state and the data would lie there."""
    if leaf is None:
        return None
    value = torch.as_tensor(leaf.value if isinstance(leaf, keras.Variable) else leaf)
    kept = value.dtype if value.is_floating_point() else torch.int64
    return torch.empty(value.shape, dtype=kept, device=device)


def clipped_on_another_device(name):
    """The clipped sum of a model whose weights and data have no values."""
    case = models.make(name)
    model = models.full_batch(case.private, DPSGD(0.1, noise_multiplier=1.0), case.loss)
    keras_dp.clipping.explain(model, case.x, case.y, case.sample_weight, print_fn=str)
    kinds = model.trainable_variables, model.non_trainable_variables, model.metrics_variables
    state = [[on("meta", variable) for variable in variables] for variables in kinds]
    data = {"x": case.x, "y": case.y, "sample_weight": case.sample_weight}
    rows = keras.tree.map_structure(lambda a: on("meta", a), data)
    rows["position"] = torch.empty(models.SIZE, dtype=torch.int64, device="meta")
    valid = torch.empty(models.SIZE, dtype=torch.bool, device="meta")
    bound = torch.empty((), device="meta")
    with keras.device("meta"), OneDevice():
        return example._clipped(model, assemble.clipped_sum, *state, rows, valid, bound)


@pytest.fixture
def without_values(monkeypatch):
    """As in the tracing of a program, no value can be looked at."""
    for module in (recording, rules, standardised):
        monkeypatch.setattr(module, "is_traced", lambda: True)


@pytest.mark.parametrize("name", models.NAMES)
def test_all_that_clipping_makes_lies_where_weights_and_data_do(name, without_values):
    result = clipped_on_another_device(name)
    tensors = [*result.grads, result.norms, result.losses, *recording.tensors_of(result.aux)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_tensor_on_the_wrong_device_would_be_noticed(without_values, monkeypatch):
    class Misplacing:
        """PyTorch, but that zeros lie on the CPU."""

        def __getattr__(self, name):
            return getattr(torch, name)

        def zeros(self, *shape, device=None, **options):
            return torch.zeros(*shape, **options)

    monkeypatch.setattr(assemble, "torch", Misplacing())
    with pytest.raises((RuntimeError, AssertionError), match=r"device|cpu"):
        result = clipped_on_another_device("attention")
        assert {g.device.type for g in result.grads} == {"meta"}, "cpu"


def test_the_slow_way_and_no_examples_stay_on_the_device_too(without_values):
    def loss(p, x):
        return torch.tanh(x @ p[0]).sum()

    weights = [torch.empty(4, 3, device="meta")]
    for size in (0, 5):
        compute = keras_dp.clipping.clipped_sum(loss, clip_norm=1.0, method="vmap")
        with keras.device("meta"), OneDevice():
            result = compute(weights, torch.empty(size, 4, device="meta"))
        tensors = [*result.grads, result.norms, result.losses]
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert [tuple(t.shape) for t in tensors] == [(4, 3), (size,), (size,)]
