"""Reproduce a published result: a tanh CNN on Fashion-MNIST at epsilon 3 by the older accounting.

    python benchmarks/section_d.py

Tramer and Boneh 2021, (3, 1e-5) by rdp_classic, 2.38 by pld: batch 2,048, learning rate 4,
momentum 0.9, clip norm 0.1, noise multiplier 2.15, 1,160 updates, 86.0 % test accuracy. Prints
accuracy, epsilon, and the time of an update relative to ordinary training of the same model:
rounds of both in turn, medians. `--updates 20` for the speed alone.
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

BATCH = 2048
ROUNDS = 9
UPDATES_A_ROUND = 3


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=1160)
    parser.add_argument("--microbatch-size", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="append the result as a JSON line")
    return parser.parse_args(argv)


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def private_model(microbatch_size, seed=None):
    model = keras_dp.applications.TanhCNN()
    settings = {"momentum": 0.9, "clip_norm": 0.1, "noise_multiplier": 2.15, "seed": seed}
    model.compile(
        keras_dp.optimizers.DPSGD(4.0, **settings),
        loss=loss(),
        metrics=["accuracy"],
        microbatch_size=microbatch_size,
    )
    return model


def ordinary_model():
    private = keras_dp.applications.TanhCNN()
    model = keras.Model(private.inputs, private.outputs)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss=loss(), metrics=["accuracy"])
    return model


def seconds(train):
    start = time.perf_counter()
    train()
    return time.perf_counter() - start


def compare_speed(data, microbatch_size):
    """Examples a second: private at batch 2,048, ordinary at 2,048 and 64, in turn."""
    private = private_model(microbatch_size)
    small, large = ordinary_model(), ordinary_model()
    examples = UPDATES_A_ROUND * BATCH
    x, y = data.x_train[:examples], data.y_train[:examples]
    runs = {
        "private, batch 2048": lambda: private.fit(
            data.x_train, data.y_train, batch_size=BATCH, steps_per_epoch=UPDATES_A_ROUND, verbose=0
        ),
        "ordinary, batch 2048": lambda: large.fit(x, y, batch_size=BATCH, verbose=0),
        "ordinary, batch 64": lambda: small.fit(x, y, batch_size=64, verbose=0),
    }
    first = {name: seconds(run) for name, run in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {
        name: {
            "examples_a_second": round(examples / float(np.median(spent))),
            "first_round_seconds": round(first[name], 1),
        }
        for name, spent in times.items()
    }


def main(argv=None):
    arguments = parse(argv)
    data = load_images()
    speed = compare_speed(data, arguments.microbatch_size)
    model = private_model(arguments.microbatch_size)
    model.fit(
        data.x_train, data.y_train, batch_size=BATCH, steps_per_epoch=arguments.updates, verbose=2
    )
    _, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0, batch_size=1000)
    print(model.privacy_statement(delta=1e-5))
    result = {
        "data": data.name,
        "test_accuracy": round(accuracy, 4),
        "updates": model.privacy_spent(1e-5).updates,
        "epsilon_pld": round(model.privacy_spent(1e-5).epsilon, 4),
        "epsilon_rdp_classic": round(model.privacy_spent(1e-5, "rdp_classic").epsilon, 4),
        "speed": speed,
    }
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
