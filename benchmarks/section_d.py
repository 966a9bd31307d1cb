"""Reproduce a published result: a tanh CNN on Fashion-MNIST at epsilon 3 by the older accounting.

    python benchmarks/section_d.py

Tramer and Boneh 2021, (3, 1e-5) by rdp_classic, 2.38 by pld: batch 2,048, learning rate 4,
momentum 0.9, clip norm 0.1, noise multiplier 2.15, 1,160 updates, 86.0 % test accuracy. Prints
accuracy, epsilon, examples a second and, as the yardstick, ordinary training of the same model in
the same run; appends a JSON line with the result to `--out`.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import keras
import numpy as np

import keras_dp
from data import load_images


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--microbatch-size", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="append the result as a JSON line")
    return parser.parse_args(argv)


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train_private(data, microbatch_size):
    model = keras_dp.applications.TanhCNN()
    model.compile(
        keras_dp.optimizers.DPSGD(4.0, momentum=0.9, clip_norm=0.1, noise_multiplier=2.15),
        loss=loss(),
        metrics=["accuracy"],
        microbatch_size=microbatch_size,
    )
    warm = {"batch_size": 2048, "steps_per_epoch": 1, "verbose": 0}
    start = time.perf_counter()
    model.fit(data.x_train, data.y_train, **warm)
    first = time.perf_counter() - start
    start = time.perf_counter()
    model.fit(  # one of the 1,160 updates is made above
        data.x_train, data.y_train, batch_size=2048, steps_per_epoch=1159, epochs=1, verbose=2
    )
    return model, first, 1159 * 2048 / (time.perf_counter() - start)


def ordinary_examples_a_second(data, batch_size):
    private = keras_dp.applications.TanhCNN()
    model = keras.Model(private.inputs, private.outputs)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss=loss(), metrics=["accuracy"])
    x, y = data.x_train[:20480], data.y_train[:20480]
    model.fit(x, y, batch_size=batch_size, verbose=0)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        model.fit(x, y, batch_size=batch_size, verbose=0)
        times.append(time.perf_counter() - start)
    return len(x) / float(np.median(times))


def main(argv=None):
    arguments = parse(argv)
    data = load_images()
    model, first, speed = train_private(data, arguments.microbatch_size)
    _, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0, batch_size=1000)
    print(model.privacy_statement(delta=1e-5))
    result = {
        "data": data.name,
        "test_accuracy": round(accuracy, 4),
        "updates": model.privacy_spent(1e-5).updates,
        "epsilon_pld": round(model.privacy_spent(1e-5).epsilon, 4),
        "epsilon_rdp_classic": round(model.privacy_spent(1e-5, "rdp_classic").epsilon, 4),
        "first_update_seconds": round(first, 1),
        "private_examples_a_second": round(speed),
        "ordinary_examples_a_second": {
            size: round(ordinary_examples_a_second(data, size)) for size in (64, 2048)
        },
    }
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
