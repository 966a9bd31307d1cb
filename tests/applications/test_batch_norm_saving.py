"""Models without their BatchNormalization are saved, loaded and cloned."""

import keras
import numpy as np
import pytest

from keras_dp.applications import replace_batch_norm
from tests.applications import blocks
from tests.applications.blocks import L
from tests.applications.test_batch_norm import KINDS

pytestmark = pytest.mark.usefixtures("unoptimized")

# Keras cannot load a model of which one part is also a part of another part.
SAVED = [name for name in blocks.MODELS if name != "shared in nested"]


@pytest.mark.parametrize("by", KINDS)
@pytest.mark.parametrize("name", SAVED)
def test_a_loaded_model_is_equal(name, by, tmp_path):
    new, _ = replace_batch_norm(blocks.make(name), by)
    new.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not blocks.batch_norms(loaded)
    assert type(loaded) is type(new)
    x = blocks.data()
    np.testing.assert_array_equal(blocks.outputs(loaded, x), blocks.outputs(new, x))


@pytest.mark.parametrize("name", ["nested", "containers", "build", "deep"])
def test_a_clone_is_equal_once_it_has_the_weights(name):
    new, _ = replace_batch_norm(blocks.make(name), "frozen_statistics")
    clone = keras.models.clone_model(new)
    clone.set_weights(new.get_weights())
    x = blocks.data()
    np.testing.assert_array_equal(blocks.outputs(clone, x), blocks.outputs(new, x))


def test_a_part_of_a_new_model_is_saved_without_batch_normalisation(tmp_path):
    new, _ = replace_batch_norm(blocks.make("backbone"), "frozen_statistics")
    part = keras.Model(new.input, new.get_layer("block").output)
    keras.Sequential([part, L.Flatten()]).save(tmp_path / "part.keras")
    loaded = keras.models.load_model(tmp_path / "part.keras")
    assert not blocks.batch_norms(loaded)
    x = blocks.data()
    np.testing.assert_array_equal(
        blocks.outputs(loaded, x), blocks.outputs(part, x).reshape(len(x), -1)
    )


def test_a_new_model_can_be_replaced_again_and_inside_another():
    new, _ = replace_batch_norm(blocks.make("backbone"), "frozen_statistics")
    outer = keras.Sequential([keras.Input(blocks.SHAPE), blocks.functional(blocks.BatchNorm())])
    outer.add(blocks.functional(L.Dense(4)))
    outer = keras.Model(new.input, outer(new.input) + L.Dense(4)(new(new.input)["features"]))
    again, report = replace_batch_norm(blocks.randomise(outer), "affine")
    assert len(report.rows) == 1
    x = blocks.data()
    np.testing.assert_allclose(blocks.outputs(again, x), blocks.outputs(outer, x), rtol=1e-5)


def test_the_trainable_flag_of_the_whole_is_kept(tmp_path):
    new, _ = replace_batch_norm(blocks.make("backbone"))
    new.trainable = False
    new.save(tmp_path / "model.keras")
    assert not keras.models.load_model(tmp_path / "model.keras").trainable_variables
