"""Tests of the TensorFlow engine, which run where Keras runs on TensorFlow."""

import keras

if keras.backend.backend() != "tensorflow":
    collect_ignore_glob = ["*.py"]
