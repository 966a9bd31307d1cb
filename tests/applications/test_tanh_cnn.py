"""The published small CNN."""

import numpy as np

import keras_dp


def test_the_tanh_cnn_has_the_published_size_and_gives_logits():
    model = keras_dp.applications.TanhCNN()
    assert model.count_params() == 26_010
    assert isinstance(model, keras_dp.DPModel)
    assert model.predict(np.zeros((2, 28, 28, 1)), verbose=0).shape == (2, 10)
    assert keras_dp.applications.TanhCNN((20, 20, 3), classes=4, name="own").output_shape == (
        None,
        4,
    )
