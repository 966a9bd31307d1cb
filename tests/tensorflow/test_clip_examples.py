"""The TensorFlow engine against a loop over single examples."""

import keras
import numpy as np
import pytest

from tests.tensorflow.models import MODELS
from tests.tensorflow.oracle import build, check, private


@pytest.mark.parametrize("name", MODELS)
def test_clipped_sums_norms_and_losses_are_those_of_a_loop_over_examples(name):
    keras.utils.set_random_seed(1)
    model, loss, rows = MODELS[name]()
    model = private(model, loss)
    assert build(model, rows).data_dependent == ()
    check(model, rows)
