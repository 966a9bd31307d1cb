"""Every backend has the same functions, so that nothing above asks which one runs."""

import importlib

import keras

from keras_dp import backend


def test_the_backend_has_all_names_and_no_others():
    chosen = importlib.import_module(f"keras_dp.backend.{keras.backend.backend()}")
    assert {*chosen.__all__} == {*backend.__all__} - {"Report"}
    for name in backend.__all__:
        assert getattr(backend, name) is not None
