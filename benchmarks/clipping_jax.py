"""Clipping on Keras' JAX backend: the part of `clipping.py` for that backend.

The engine, plain `vmap` and `jax_privacy` against ordinary training. `jax_privacy` needs the
package of that name. Opacus and TensorFlow Privacy, each against ordinary training in its own
framework, need interpreters of their own: `torch opacus`, and on Python 3.11
`tensorflow==2.15.1 tensorflow-privacy==0.9.0`. The table needs `rich`, the picture `matplotlib`.
"""

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import clipping_report
import clipping_timing
import jax
import jax.numpy as jnp
import keras
import numpy as np
from clipping_models import MODELS, NINE, build
from clipping_steps import METHODS, compile_method

TOLERANCE = 1e-4
OTHERS = {"torch": "clipping_torch.py", "tfp": "clipping_tfp.py"}


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, help="default: as many as a minute allows")
    parser.add_argument("--microbatch", type=int, help="for jax_privacy; default: the fastest")
    parser.add_argument("--torch-python", help="an interpreter with torch and opacus")
    parser.add_argument("--tfp-python", help="an interpreter with tensorflow-privacy")
    parser.add_argument("--out", type=Path, help="folder for clipping.json, .md and .png")
    return parser.parse_args(argv)


# --- one model ----------------------------------------------------------------------------------


def difference(result, reference):
    """Largest relative difference: of the mean loss, or of any leaf of the clipped sum.

    A leaf counts as at least a hundredth of the whole: some have a gradient of 0 but for rounding.
    """
    (loss, grads), (right_loss, right) = jax.tree.map(np.asarray, (result, reference))
    whole = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in right))
    worst = [abs(loss - right_loss) / abs(right_loss)]
    for leaf, other in zip(grads, right, strict=True):
        scale = max(np.linalg.norm(other), whole / 100)
        worst.append(np.linalg.norm(leaf - other) / scale)
    return float(np.max(worst))


def compare(compiled, arguments):
    """Each private method's difference to the slowest one that ran, the most plain of them."""
    results = {name: step.run(*arguments) for name, step in compiled.items()}
    ordinary_loss, _ = results.pop("ordinary")
    reference = next((results[name] for name in ("vmap", "jax_privacy") if name in results), None)
    reference = reference or next(iter(results.values()), None)
    differences = {}
    for name, result in results.items():
        to_loss = abs(float(result[0]) - float(ordinary_loss)) / abs(float(ordinary_loss))
        differences[name] = float(np.max([difference(result, reference), to_loss]))
    return differences


def run_model(name, methods, arguments):
    """Compile, compare, and time all methods on one model."""
    case = build(name)
    inputs = jax.tree.map(jnp.asarray, (case.params, case.frozen, case.batch))
    made = {m: compile_method(case, m, inputs, arguments.microbatch) for m in methods}
    results = {method: compiled.facts() for method, compiled in made.items()}
    usable = {method: compiled for method, compiled in made.items() if compiled.fits}
    for method, value in compare(usable, inputs).items():
        results[method]["difference"] = value
        if not value <= TOLERANCE:  # also for NaN
            results[method]["status"] = "disagrees"
            print(f"{name}: {method} DISAGREES, relative difference {value:.1e}", flush=True)
            del usable[method]
    steps = {
        method: lambda run=compiled.run: jax.block_until_ready(run(*inputs))
        for method, compiled in usable.items()
    }
    for method, times in clipping_timing.measure(
        steps, "ordinary", rounds=arguments.rounds
    ).items():
        results[method].update(times)
    parameters = sum(value.size for value in case.params)
    return {"batch": case.size, "parameters": parameters, "methods": results}


def progress(name, result):
    """One line for a model that is done."""
    parts = [f"{name}: largest difference {clipping_report.worst_difference(result):.1e}"]
    for method, facts in result["methods"].items():
        shown = f"{facts['ratio']:.2f}x" if "ratio" in facts else facts["status"]
        parts.append(f"{method} {shown}")
    print(", ".join(parts), flush=True)


# --- the whole run ------------------------------------------------------------------------------


def chosen_methods(arguments, notes):
    """The methods that can run; ordinary training always does."""
    methods = [method for method in METHODS if method in ("ordinary", *arguments.methods)]
    if "jax_privacy" in methods and importlib.util.find_spec("jax_privacy") is None:
        notes.append("jax_privacy is not installed: its columns are left out.")
        methods.remove("jax_privacy")
    return methods


def run_other(name, arguments, notes):
    """Run the part for another framework under its interpreter, or note why not."""
    python = getattr(arguments, f"{name}_python")
    if python is None:
        notes.append(f"No --{name}-python given: the columns of that framework are left out.")
        return None
    command = [python, str(Path(__file__).with_name(OTHERS[name])), "--models", *arguments.models]
    if arguments.rounds:
        command += ["--rounds", str(arguments.rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        notes.append(
            f"{OTHERS[name]} failed with code {done.returncode}: its columns are left out."
        )
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def environment():
    """Versions and machine."""
    packages = ("jax", "jaxlib", "keras", "keras-dp", "jax_privacy")
    found = {
        d.metadata["Name"].lower().replace("-", "_") for d in importlib.metadata.distributions()
    }
    present = [name for name in packages if name.replace("-", "_") in found]
    versions = {name: importlib.metadata.version(name) for name in present}
    device = str(jax.devices()[0].device_kind)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "device": device}
    return {"python": platform.python_version(), **versions, **machine}


def main(argv=None):
    """Run the benchmark; the exit code is 1 if a method disagrees."""
    arguments = parse(argv)
    notes = []
    methods = chosen_methods(arguments, notes)
    results = {"environment": environment(), "nine": NINE, "models": {}, "notes": notes}
    jax.jit(lambda x: x @ x).lower(jnp.ones((8, 8))).compile()  # starts the compiler
    for name in arguments.models:
        results["models"][name] = run_model(name, methods, arguments)
        progress(name, results["models"][name])
        keras.utils.clear_session()
        gc.collect()
        clipping_report.save_json(results, arguments.out)
    for name in OTHERS:
        results[name] = run_other(name, arguments, notes)
    results["geometric_means"] = clipping_report.geometric_means(results)
    clipping_report.report(results, arguments.out)
    every = [facts for model in results["models"].values() for facts in model["methods"].values()]
    return int(any(facts["status"] == "disagrees" for facts in every))
