"""Clipping on Keras' TensorFlow or PyTorch backend: the part of the benchmark for that backend.

The engine and a loop over examples run against ordinary training of the same Keras model in the
same process, in turn; on PyTorch so do Opacus' hooks and ghost clipping and ordinary training of
the same model written in plain PyTorch (`plain ordinary`), where `opacus` is installed and has the
model. The loop runs a few examples, and its time is taken in proportion. `--compiled` adds both
with `torch.compile` (`ordinary compiled`, `engine compiled`); compiling takes minutes a model.
"""

import argparse
import gc
import importlib.util
import math
import os
import platform
from pathlib import Path

import clipping_report
import clipping_timing
import keras
import numpy as np
from clipping_models import MODELS, NINE, build

import keras_dp
from keras_dp import backend

CLIP_NORM = 1.0
TOLERANCE = 1e-2
"""Of the difference to the loop: one activation that rounds to the other side of its kink gives a
few thousandths. `tests/contract` compares to 1e-5, on smooth models."""

LOOPED = 8
"""Examples of a batch that the loop runs, whose time is taken in proportion."""


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--compiled", action="store_true", help="with torch.compile too")
    parser.add_argument("--out", type=Path, help="folder for clipping.json")
    parser.add_argument("--threads", type=int, help="processor threads; default: the library's")
    return parser.parse_args(argv)


def values(variables):
    return [variable.value for variable in variables]


def private_model(case, jit_compile):
    """The model of a case, compiled for private training and looked at."""
    model = keras_dp.make_private(case.model)
    optimizer = keras_dp.optimizers.DPSGD(0.1, clip_norm=CLIP_NORM, noise_multiplier=1.0)
    model.compile(optimizer, case.loss, jit_compile=jit_compile)
    report = keras_dp.clipping.explain(
        model, case.batch["x"], case.batch["y"], print_fn=lambda table: None
    )
    return model, report


def engine_step(case, jit_compile="auto"):
    """The clipped sum of a batch."""
    model, report = private_model(case, jit_compile)
    tensors = {name: keras.ops.convert_to_tensor(a) for name, a in case.batch.items()}
    rows = {**tensors, "sample_weight": None}
    rows["position"] = keras.ops.arange(case.size, dtype="int32")
    real = keras.ops.ones(case.size, "bool")

    def clipped(params, non_trainable, metrics):
        result = backend.clip_examples(model, params, non_trainable, metrics, rows, real, CLIP_NORM)
        return list(result.grads)

    run = backend.compile_function(clipped)
    state = [
        values(variables)
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.metrics_variables,
        )
    ]
    return lambda: run(*state), report


def loop_step(case, one_gradient):
    """The clipped sum of the first few examples, one after the other."""

    def step():
        total = None
        for i in range(LOOPED):
            grads = one_gradient(*(case.batch[name][i : i + 1] for name in ("x", "y")))
            norm = np.sqrt(sum(float(keras.ops.sum(keras.ops.square(g))) for g in grads))
            share = [g * min(1.0, CLIP_NORM / norm) for g in grads]
            total = share if total is None else [a + b for a, b in zip(total, share, strict=True)]
        return total

    return step


def torch_gradient(case, compiled=False):
    """A function of a batch: the gradient of its mean loss, as Keras trains on PyTorch."""
    import torch

    variables = case.model.trainable_variables

    def mean_loss(x, y):
        return case.loss(y, case.model(x, training=True))

    if compiled:
        mean_loss = torch.compile(mean_loss, dynamic=False)

    def gradient(x, y):
        loss = mean_loss(torch.as_tensor(x), torch.as_tensor(y))
        return torch.autograd.grad(loss, [variable.value for variable in variables])

    return gradient


def tensorflow_gradient(case):
    """A function of a batch: the gradient of its mean loss, compiled as Keras trains."""
    import tensorflow as tf

    variables = [variable.value for variable in case.model.trainable_variables]

    @tf.function(jit_compile=False)
    def gradient(x, y):
        with tf.GradientTape() as tape:
            loss = case.loss(y, case.model(x, training=True))
        return [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

    return lambda x, y: gradient(tf.convert_to_tensor(x), tf.convert_to_tensor(y))


GRADIENTS = {"torch": torch_gradient, "tensorflow": tensorflow_gradient}


def difference(result, reference):
    """Relative difference of two sums, all leaves together."""
    pairs = [
        tuple(keras.ops.convert_to_numpy(g) for g in pair)
        for pair in zip(result, reference, strict=True)
    ]
    error = sum(float(np.square(a - b).sum()) for a, b in pairs)
    return (error / sum(float(np.square(b).sum()) for _, b in pairs)) ** 0.5


def first_examples(case):
    """The case with the batch that the loop runs."""
    few = {name: array[:LOOPED] for name, array in case.batch.items()}
    return type(case)(case.model, case.loss, few)


def opacus_steps(name):
    """Opacus' steps of the same model in plain PyTorch, with ordinary training; or none."""
    if keras.backend.backend() != "torch" or importlib.util.find_spec("opacus") is None:
        return {}
    import clipping_torch

    if name not in clipping_torch.MODELS:
        return {}
    steps, failed = clipping_torch.make_steps(name)
    for method, why in failed.items():
        print(f"{name}: {method} {why}", flush=True)
    return {f"plain {method}": step for method, step in steps.items()}


def compiled_steps(case):
    """Ordinary training and the engine with `torch.compile`."""
    gradient = torch_gradient(case, compiled=True)
    return {
        "ordinary compiled": lambda: gradient(case.batch["x"], case.batch["y"]),
        "engine compiled": engine_step(case, jit_compile=True)[0],
    }


def run_model(name, rounds, compiled):
    case = build(name)
    gradient = GRADIENTS[keras.backend.backend()](case)
    few = first_examples(case)
    engine, report = engine_step(case)
    loop = loop_step(few, gradient)
    error = difference(engine_step(few)[0](), loop())
    if not error <= TOLERANCE:
        raise RuntimeError(f"{name}: the engine differs from the loop by {error:.1e}.")
    x, y = case.batch["x"], case.batch["y"]
    steps = {"ordinary": lambda: gradient(x, y), "engine": engine, "loop": loop}
    steps |= opacus_steps(name)
    steps |= compiled_steps(case) if compiled else {}
    for step in steps.values():
        step()
    times = clipping_timing.measure(steps, "ordinary", rounds=rounds)
    looped = case.size / LOOPED  # the loop ran a part of the batch only
    for key in ("seconds", "fastest", "slowest", "ratio"):
        times["loop"][key] *= looped
    rules = sorted({row.rule for row in report.rows})
    return {"batch": case.size, "difference": error, "rules": rules, "methods": times}


def limit_threads(count):
    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(count)
    else:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)


def main(argv=None):
    arguments = parse(argv)
    if arguments.threads:
        limit_threads(arguments.threads)
    name = keras.backend.backend()
    version = __import__(name).__version__
    results = {
        "environment": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            name: version,
            "cores": os.cpu_count(),
        },
        "models": {},
    }
    for model in arguments.models:
        found = results["models"][model] = run_model(model, arguments.rounds, arguments.compiled)
        shown = ", ".join(f"{k} {v['ratio']:.2f}x" for k, v in found["methods"].items())
        print(f"{model}: difference {found['difference']:.1e}, {shown}", flush=True)
        keras.utils.clear_session()
        gc.collect()
        clipping_report.save_json(results, arguments.out)
    print_means(results["models"])


def print_means(models):
    """Geometric means over the nine models, of the methods that ran on all that are here."""
    nine = [models[name]["methods"] for name in NINE if name in models]
    for method in ("engine", "loop", "ordinary compiled", "engine compiled"):
        ratios = [methods[method]["ratio"] for methods in nine if method in methods]
        if ratios:
            mean = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
            print(f"geometric mean of {method} over {len(ratios)} models: {mean:.2f}x")
