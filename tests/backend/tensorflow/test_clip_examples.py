"""The TensorFlow engine against a loop over single examples."""

import keras
import pytest

from keras_dp.backend.tensorflow.clipping import example
from tests.backend.tensorflow.models import MODELS
from tests.backend.tensorflow.oracle import build, check, private


@pytest.mark.parametrize("name", MODELS)
def test_clipped_sums_norms_and_losses_are_those_of_a_loop_over_examples(name):
    keras.utils.set_random_seed(1)
    model, loss, rows = MODELS[name]()
    model = private(model, loss)
    assert build(model, rows).data_dependent == ()
    check(model, rows)


@pytest.mark.parametrize("name", ["lstm", "bidirectional"])
def test_recurrent_layers_over_long_sequences_are_exact_without_being_unrolled(name, monkeypatch):
    monkeypatch.setattr(example, "UNROLLED", 2)
    model, loss, rows = MODELS[name]()
    model = private(model, loss)
    rules = {row.rule for row in build(model, rows).report.rows}
    assert rules == {"one example after another"}
    check(model, rows)
