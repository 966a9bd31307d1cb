"""Compare dtype policies: the tanh CNN of the published result, equal runs under each policy.

    python benchmarks/precision.py --updates 300 --seeds 0 1 2

A seed fixes first weights, draws and noise, so that runs of one seed differ by the policy alone.
Prints test accuracies and their distance to float32.
"""

import argparse
import json
import time
from pathlib import Path

import section_d  # sets the backend and finds the examples
from section_d import keras

from data import load_images

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16")


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=POLICIES)
    parser.add_argument("--out", type=Path, default=None, help="append the results as JSON lines")
    return parser.parse_args(argv)


def train(policy, seed, updates, data):
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(seed)
    model = section_d.private_model(None, seed)
    start = time.perf_counter()
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=section_d.BATCH,
        steps_per_epoch=updates,
        verbose=0,
    )
    seconds = time.perf_counter() - start
    _, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0, batch_size=1000)
    return {
        "policy": policy,
        "seed": seed,
        "updates": updates,
        "test_accuracy": round(accuracy, 4),
        "seconds": round(seconds, 1),
    }


def main(argv=None):
    arguments = parse(argv)
    data = load_images()
    for seed in arguments.seeds:
        reference = None
        for policy in arguments.policies:
            result = {"data": data.name, **train(policy, seed, arguments.updates, data)}
            reference = result["test_accuracy"] if reference is None else reference
            result["points_above_first"] = round(100 * (result["test_accuracy"] - reference), 2)
            print(json.dumps(result), flush=True)
            if arguments.out is not None:
                with arguments.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
