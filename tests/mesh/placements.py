"""Meshes of some of eight simulated devices, and a model to train on them."""

import contextlib

import keras
import numpy as np

import keras_dp
from keras_dp.optimizers import DPAdam

D = keras.distribution
L = keras.layers
MESHES = ["1", "2", "4", "8", "4x2", "2x2", "1x4", "shared"]
"""Numbers of devices, or of groups with examples of their own times devices in each."""


def distribution(mesh):
    """Return data parallelism over so many devices, or over groups with sharded weights.

    "shared" are four groups that have each large weight among them.
    """
    if mesh == "shared":
        device_mesh = D.DeviceMesh((4,), ["batch"], D.list_devices("cpu")[:4])
        layouts = D.LayoutMap(device_mesh)
        layouts["dense.*kernel"] = ("batch", None)
        layouts["conv.*kernel"] = (None, None, None, "batch")
        return D.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    groups, _, within = mesh.partition("x")
    devices = D.list_devices("cpu")[: int(groups) * int(within or 1)]
    if not within:
        return D.DataParallel(devices=devices)
    device_mesh = D.DeviceMesh((int(groups), int(within)), ["batch", "model"], devices)
    layouts = D.LayoutMap(device_mesh)
    layouts["dense.*kernel"] = (None, "model")
    layouts["dense.*bias"] = ("model",)
    layouts["conv.*kernel"] = (None, None, None, "model")
    return D.ModelParallel(layout_map=layouts, batch_dim_name="batch")


def on(mesh):
    """Return a context in which Keras distributes over this mesh, or not at all."""
    return contextlib.nullcontext() if mesh is None else distribution(mesh).scope()


def data(size=640):
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 6, 6, 2)).astype("float32"), rng.integers(0, 4, size)


def model(
    seed=0,
    microbatch_size=30,
    dropout=0.2,
    metrics=("accuracy",),
    private_metrics=None,
    ledger_file=None,
    dtype=None,
    regularizer=None,
    **optimizing,
):
    """Return a model whose weights are the same on every mesh, compiled."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 2))
    hidden = L.Conv2D(8, 3, activation="relu", name="conv", dtype=dtype)(inputs)
    hidden = L.GroupNormalization(4)(hidden)
    dense = {"activation": "tanh", "name": "dense_1", "kernel_regularizer": regularizer}
    hidden = L.Dense(16, dtype=dtype, **dense)(L.Flatten()(hidden))
    hidden = L.Dropout(dropout, seed=3)(hidden)
    private = keras_dp.DPModel(inputs, L.Dense(8, name="dense_2")(hidden))
    settings = {"clip_norm": 1.0, "noise_multiplier": 1.0, "seed": seed, **optimizing}
    private.compile(
        DPAdam(0.01, **settings),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=list(metrics),
        microbatch_size=microbatch_size,
        private_metrics=private_metrics,
        ledger_file=ledger_file,
    )
    return private


def values(private):
    """Return the weights as lists; on a mesh, what the first own device has of them."""
    arrays = [v.value.addressable_data(0) for v in private.trainable_variables]
    return [np.asarray(array).ravel().tolist() for array in arrays]


def trained(mesh, steps=20, callbacks=(), epochs=1, **settings):
    """Train on a mesh; return the weights and the history of the logs."""
    with on(mesh):
        private = model(**settings)
        history = private.fit(
            *data(),
            batch_size=101,  # no number of devices divides it
            steps_per_epoch=steps,
            epochs=epochs,
            callbacks=list(callbacks),
            verbose=0,
        ).history
        return private.get_weights(), history
