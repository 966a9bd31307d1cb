"""What devices say to each other in an update: the clipped sums, once, and no examples."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import backend
from keras_dp.optimizers import DPSGD
from tests.mesh.compiled import collectives, compiled_texts, groups
from tests.mesh.placements import L, data, model, on


def texts_of(mesh, monkeypatch, on_device, **settings):
    def train():
        with on(mesh):
            private = model(**settings)
            private.fit(*data(), batch_size=101, steps_per_epoch=1, verbose=0)

    monkeypatch.setattr(backend, "loops_on_device", lambda: on_device)
    return compiled_texts(monkeypatch, train)


def between_groups(text, within):
    """Return the collectives between devices that have different examples."""
    return [
        (kind, shape)
        for kind, shape, found in collectives(text)
        if any(len({device // within for device in group}) > 1 for group in found)
    ]


@pytest.mark.parametrize(("mesh", "within"), [("8", 1), ("4x2", 2)])
@pytest.mark.parametrize("microbatch_size", [16, 101])
def test_sums_are_added_up_once_in_an_update(mesh, within, microbatch_size, monkeypatch):
    """However many microbatches: they are inside a loop, and nothing in it waits for others."""
    texts = texts_of(mesh, monkeypatch, True, microbatch_size=microbatch_size)
    (found,) = between_groups(texts["train_step"], within)
    assert found[0] == "all-reduce"

    assert found[1].count("f32[") >= 8  # all variables together


@pytest.mark.parametrize(("mesh", "within"), [("8", 1), ("4x2", 2)])
def test_with_the_loop_on_the_host_a_microbatch_says_nothing_to_other_groups(
    mesh, within, monkeypatch
):
    texts = texts_of(mesh, monkeypatch, False)
    assert between_groups(texts["start"], within) == []
    assert between_groups(texts["_accumulate_step"], within) == []
    assert [kind for kind, _ in between_groups(texts["_finish_step"], within)] == ["all-reduce"]


def test_data_parallel_devices_gather_nothing(monkeypatch):
    texts = texts_of("8", monkeypatch, True)
    assert {kind for kind, _, _ in collectives(texts["train_step"])} == {"all-reduce"}


@pytest.mark.parametrize("noise", ["gaussian", "discrete_gaussian"])
def test_no_device_holds_a_whole_array_that_the_layout_cuts(noise, monkeypatch):
    """Neither the weights nor their sums, noise or optimizer state."""

    def train():
        with on("2x4"):
            inputs = keras.Input((48,))
            hidden = L.Dense(4096, name="dense_1", activation="tanh")(inputs)
            private = keras_dp.DPModel(inputs, L.Dense(4, name="dense_2")(hidden))
            optimizer = DPSGD(0.1, noise_multiplier=1.0, noise=noise)
            private.compile(optimizer, loss="mse", microbatch_size=8)
            x = np.ones((16, 48), "float32")
            private.fit(x, np.ones((16, 4)), batch_size=8, steps_per_epoch=1, verbose=0)

    texts = compiled_texts(monkeypatch, train)
    for name in ("start", "_accumulate_step", "_finish_step"):
        assert "48,1024]" in texts[name]
        assert "48,4096]" not in texts[name]
        assert "[196608]" not in texts[name]


def test_groups_are_read_from_every_notation():
    assert groups("replica_groups={{0,1},{2,3}}, x") == [(0, 1), (2, 3)]
    assert groups("replica_groups=[2,2]<=[4]") == [(0, 1), (2, 3)]
    assert groups("replica_groups=[2,2]<=[2,2]T(1,0)") == [(0, 2), (1, 3)]
    assert groups("source_target_pairs={{0,1},{1,0}}") == [(0, 1), (1, 0)]
    assert groups("replica_groups=mesh['a'=2,'b'=2] {'a'}") == [(0, 2), (1, 3)]
    named = "replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}"
    assert groups(named) == [(0, 1), (2, 3), (4, 5), (6, 7)]
