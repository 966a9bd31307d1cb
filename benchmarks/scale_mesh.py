"""The part `mesh` of `scale.py`: what devices hold and say to each other, on simulated devices.

The loop over microbatches is in the compiled update, as on accelerators. Speeds are not measured:
simulated devices share the cores of one machine.
"""

import re
import sys
from functools import partial
from pathlib import Path

import jax
import keras
import numpy as np

import keras_dp
from keras_dp.backend.jax import mesh

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.mesh.compiled import collectives

MESHES = ("1", "2", "4", "8", "4x2", "2x4")
UPDATES, BATCH = 20, 1001
SIZES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}


def distribution(name):
    """Data parallelism, or groups of devices with examples of their own times devices in each."""
    groups, _, within = name.partition("x")
    devices = keras.distribution.list_devices("cpu")[: int(groups) * int(within or 1)]
    if not within:
        return keras.distribution.DataParallel(devices=devices)
    shape = (int(groups), int(within))
    devices = keras.distribution.DeviceMesh(shape, ["batch", "model"], devices)
    layouts = keras.distribution.LayoutMap(devices)
    layouts["conv.*kernel"] = (None, None, None, "model")
    layouts["dense/kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


def meshes(make_model, images):
    """For each mesh: its weights beside those of one device, collectives, bytes, memory."""
    x, y = images(4 * BATCH)
    expected = None
    for name in MESHES:
        with distribution(name).scope():
            keras.utils.set_random_seed(0)
            model = make_model()
            model.optimizer.seed = 0
            fit = partial(model.fit, x, y, batch_size=BATCH, verbose=0)
            text, memory = compiled(fit)
            fit(steps_per_epoch=UPDATES - 1)
            weights = np.concatenate([w.ravel() for w in model.get_weights()])
            expected = weights if expected is None else expected
            groups = mesh.placement().shards
            yield {
                "mesh": name,
                "difference": float(np.max(np.abs(weights - expected))),
                **said(text, jax.device_count() if groups == 1 else len_within(name)),
                "argument_mib": memory.argument_size_in_bytes / 2**20,
                "temporary_mib": memory.temp_size_in_bytes / 2**20,
            }


def len_within(name):
    return int(name.partition("x")[2] or 1)


def compiled(fit):
    """Make one update; return the text of its program and the memory that a device takes."""
    found = []
    original = keras_dp.backend.compile_function

    def spied(function, **settings):
        made = original(function, **settings)

        def called(*arguments):
            if getattr(function, "__name__", "") == "train_step" and not found:
                program = made.lower(*arguments).compile()
                found.extend([program.as_text(), program.memory_analysis()])
            return made(*arguments)

        called.lower = made.lower
        return called

    keras_dp.backend.compile_function = spied
    try:
        fit(steps_per_epoch=1)
    finally:
        keras_dp.backend.compile_function = original
    return found


def said(text, within):
    """Count what groups with different examples say to each other in an update, and how much."""
    between = [
        (kind, shape)
        for kind, shape, groups in collectives(text)
        if any(len({device // within for device in group}) > 1 for group in groups)
    ]
    return {
        "between_groups": ", ".join(kind for kind, _ in between) or "nothing",
        "kib": sum(size(shape) for _, shape in between) / 1024,
        "within_groups": len(collectives(text)) - len(between),
    }


def size(shape):
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return sum(
        SIZES[kind] * np.prod([int(n) for n in dims.split(",") if n]) for kind, dims in arrays
    )
