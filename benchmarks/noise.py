"""What the kinds of noise cost: by themselves, and in whole updates beside an ordinary step.

    python benchmarks/noise.py
    python benchmarks/noise.py --weights 1e5 1e6 --rounds 5

Noise is added to the clipped sums of a perceptron, compiled, in turn with each kind, round by
round: medians, and ratios to Gaussian noise in float32. Memory is what XLA sets aside besides
arguments and results. A whole update is `train_on_batch` on 256 examples with Adam; its ratios are
to the same step of the same model in plain Keras.
"""

import argparse
import json
import math
import os
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import clipping_timing
import jax
import jax.numpy as jnp
import keras
import numpy as np

import keras_dp
from keras_dp import noise
from keras_dp.plan import NOISES

LAYERS = 12
BATCH = 256
COLUMNS = ("what", "weights", "noise", "seconds", "ratio", "compilation", "bytes_per_weight")


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", nargs="+", type=float, default=[1e5, 1e6, 1e7])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, help="append the results as JSON lines")
    return parser.parse_args(argv)


def perceptron(weights, kind=None):
    """`LAYERS` hidden layers, two of each of six shapes; private with a kind of noise."""
    width = math.isqrt(int(weights) // LAYERS)
    layers = [keras.layers.Dense(width + 2 * (i // 2), activation="relu") for i in range(LAYERS)]
    layers = [keras.Input((width,)), *layers, keras.layers.Dense(1)]
    if kind is None:
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.Adam(1e-4), loss="mse")
    else:
        model = keras_dp.DPSequential(layers)
        optimizer = keras_dp.optimizers.DPAdam(1e-4, noise_multiplier=1.0, noise=kind)
        model.compile(optimizer, loss="mse")
    return model


def noises(weights, rounds):
    shapes = [v.shape for v in perceptron(weights).trainable_variables]
    sums, stddev = [jnp.zeros(s) for s in shapes], jnp.float32(1)
    steps, costs = {}, {}
    for kind in NOISES:
        key = jnp.asarray(noise.noise_key(None, 0, kind))
        start = time.perf_counter()
        lowered = jax.jit(partial(noise.add_noise, kind=kind)).lower(sums, key, stddev)
        compiled = lowered.compile()
        costs[kind] = {
            "compilation": time.perf_counter() - start,
            "bytes_per_weight": compiled.memory_analysis().temp_size_in_bytes / count(shapes),
        }
        steps[kind] = lambda made=compiled, key=key: jax.block_until_ready(made(sums, key, stddev))
        steps[kind]()
    for kind, times in clipping_timing.measure(steps, "gaussian", rounds=rounds).items():
        yield {"what": "noise", "weights": count(shapes), "noise": kind, **times, **costs[kind]}


def whole_updates(weights, rounds):
    steps = {}
    for kind in (None, *NOISES):
        model = perceptron(weights, kind)
        width = model.inputs[0].shape[1]
        x, y = np.ones((BATCH, width), "float32"), np.ones((BATCH, 1), "float32")
        steps[kind or "ordinary"] = partial(model.train_on_batch, x, y)
        steps[kind or "ordinary"]()
    for kind, times in clipping_timing.measure(steps, "ordinary", rounds=rounds).items():
        yield {"what": "whole update", "weights": model.count_params(), "noise": kind, **times}


def count(shapes):
    return sum(map(math.prod, shapes))


def shown(value):
    return f"{value:,}" if isinstance(value, int) else value


def main(argv=None):
    arguments = parse(argv)
    print("|", " | ".join(COLUMNS), "|\n" + "|---" * len(COLUMNS) + "|")
    for weights in arguments.weights:
        for measured in (noises, whole_updates):
            for row in measured(weights, arguments.rounds):
                cells = [row.get(column, "") for column in COLUMNS]
                cells = [f"{c:.3g}" if isinstance(c, float) else shown(c) for c in cells]
                print("|", " | ".join(cells), "|", flush=True)
                if arguments.out:
                    with arguments.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
