"""What the audit's lower bounds are worth: recovery, coverage, the true pipeline, planted faults.

python benchmarks/auditing.py recovery    # known Gaussian scores: part of epsilon recovered
python benchmarks/auditing.py coverage    # how often a bound is above the true epsilon
python benchmarks/auditing.py seeds       # the true pipeline, 20 seeds
python benchmarks/auditing.py faults      # planted mistakes
"""

import argparse
import contextlib
import os
import time
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax.numpy as jnp
import keras
import numpy as np

import keras_dp
from keras_dp import auditing, noise
from keras_dp.clip_rules.rules import Flat
from keras_dp.run import PrivateRun
from keras_dp.types import SampledBatch

DELTA = 1e-5
PIPELINES = {
    "poisson, noise 2": {"sampling": "poisson", "noise": 2.0, "batch_size": 80, "epochs": 8},
    "poisson, noise 0.8": {"sampling": "poisson", "noise": 0.8, "batch_size": 80, "epochs": 4},
    "full batch, noise 8": {
        "sampling": "full_batch",
        "noise": 8.0,
        "batch_size": None,
        "epochs": 16,
    },
}
LONG = {"poisson, 32 epochs": {**PIPELINES["poisson, noise 2"], "batch_size": 50, "epochs": 32}}


def network(sampling, noise_multiplier):
    """Two layers, 630 weights in four variables of 400, 20, 200 and 10."""
    inputs = keras.Input((20,))
    hidden = keras.layers.Dense(20, activation="relu", name="hidden")(inputs)
    model = keras_dp.DPModel(inputs, keras.layers.Dense(10, name="out")(hidden))
    model.compile(
        keras_dp.optimizers.DPSGD(0.1, clip_norm=1.0, noise_multiplier=noise_multiplier),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        sampling=sampling,
    )
    return model


def data(size=300):
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 20)).astype("float32"), rng.integers(0, 10, size)


def audited(pipeline, seed, canaries=1000, runs=4):
    settings = dict({**PIPELINES, **LONG}[pipeline])
    model = network(settings.pop("sampling"), settings.pop("noise"))
    return auditing.audit(
        model, *data(), canaries=canaries, runs=runs, delta=DELTA, seed=seed, **settings
    )


def gaussian_scores(mu, count, seed):
    rng = np.random.default_rng(seed)
    included = rng.random(count) < 0.5
    return rng.normal(size=count) + mu * included, included


def recovery(seeds):
    print("part of the true epsilon recovered, mean and least over seeds, 95 % confidence")
    for mu in (0.3, 0.5, 1.0, 2.0, 4.0):
        true = auditing.gaussian_epsilon(mu, DELTA)
        for count in (500, 1000, 2000, 5000, 10000, 20000):
            row = []
            for method in ("independent", "f_dp", "one_run"):
                tried = seeds if method == "independent" else max(1, min(seeds, 20000 // count))
                bounds = [
                    auditing.lower_bound(
                        *gaussian_scores(mu, count, seed), delta=DELTA, method=method
                    ).epsilon
                    for seed in range(tried)
                ]
                row.append(f"{method} {np.mean(bounds) / true:.2f} {np.min(bounds) / true:.2f}")
            print(
                f"mu {mu:3}  epsilon {true:6.2f}  canaries {count:6}  {'  '.join(row)}", flush=True
            )


def coverage(seeds):
    print("bounds above the true epsilon (at 95 % confidence)")
    for mu in (0.0, 0.3, 1.0, 3.0):
        true = auditing.gaussian_epsilon(mu, DELTA)
        for method, tried in (("independent", seeds), ("f_dp", seeds // 5), ("one_run", seeds)):
            above = sum(
                auditing.lower_bound(
                    *gaussian_scores(mu, 1000, seed), delta=DELTA, method=method
                ).epsilon
                > true
                for seed in range(tried)
            )
            print(f"mu {mu}  {method:12} {above} of {tried}", flush=True)


def seeds_of_true_pipeline(seeds):
    for pipeline in PIPELINES:
        start = time.perf_counter()
        reports = [audited(pipeline, seed) for seed in range(seeds)]
        bounds = np.array([report.epsilon for report in reports])
        claimed = reports[0].claimed_epsilon
        others = {
            name: np.mean([report.other_bounds[name] for report in reports])
            for name in reports[0].other_bounds
        }
        print(
            f"{pipeline}: claimed {claimed:.2f}, bounds mean {bounds.mean():.2f} "
            f"({bounds.mean() / claimed:.0%}), from {bounds.min():.2f} to {bounds.max():.2f}, "
            f"{(bounds > claimed).sum()} of {seeds} above; "
            + ", ".join(f"{name} {mean:.2f}" for name, mean in others.items())
            + f"; {(time.perf_counter() - start) / seeds:.1f} s each",
            flush=True,
        )


def _half(sums, key, stddev, *others):
    return TRUE_NOISE(sums, key, [0.5 * one for one in stddev], *others)


def _missing(position):
    def add_noise(sums, *others):
        noisy = TRUE_NOISE(sums, *others)
        noisy[position] = sums[position]
        return noisy

    return add_noise


def _fixed(order_of):
    def draw(self):
        size, batch = self.plan.dataset_size, self.plan.batch_size
        turn = (self.guard.ledger.updates - 1) % max(1, round(size / batch))
        return SampledBatch(order_of(size)[turn * batch : (turn + 1) * batch])

    return draw


TRUE_NOISE = noise.add_noise
FAULTS = {
    "none": contextlib.nullcontext(),
    "no clip": mock.patch.object(
        Flat, "factors", lambda self, norms, clip_norm, layers=1: jnp.ones_like(norms)
    ),
    "noise at half": mock.patch.object(noise, "add_noise", _half),
    "one noise key": mock.patch.object(noise, "noise_key", lambda *_: np.array([1, 2], np.uint32)),
    **{
        f"no noise on {name}": mock.patch.object(noise, "add_noise", _missing(position))
        for position, name in enumerate(("hidden kernel", "hidden bias", "out kernel", "out bias"))
    },
    "fixed order": mock.patch.object(PrivateRun, "draw", _fixed(np.arange)),
    "shuffled once": mock.patch.object(
        PrivateRun, "draw", _fixed(lambda size: np.random.default_rng(5).permutation(size))
    ),
}


def faults(seeds):
    cases = [(pipeline, name) for pipeline in PIPELINES for name in FAULTS]
    cases = [case for case in cases if case[1] != "shuffled once"]  # shows after many epochs only
    for pipeline, name in [*cases, *((long, "shuffled once") for long in LONG)]:
        fault = FAULTS[name]
        start = time.perf_counter()
        with fault:
            reports = [audited(pipeline, seed) for seed in range(seeds)]
        print(
            f"{pipeline:20} {name:24} claimed {reports[0].claimed_epsilon:.2f}, bounds "
            + " ".join(f"{report.epsilon:.2f}" for report in reports)
            + f" ({reports[0].statistic}); {(time.perf_counter() - start) / seeds:.1f} s each",
            flush=True,
        )


def costs(seeds):
    model = keras_dp.applications.TanhCNN()
    model.compile(
        keras_dp.optimizers.DPSGD(0.5, clip_norm=1.0, noise_multiplier=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3000, 28, 28, 1)).astype("float32"), rng.integers(0, 10, 3000)
    arguments = {"batch_size": 256, "epochs": 6}
    for _ in range(seeds):
        start = time.perf_counter()
        model.fit(x, y, verbose=0, **arguments)
        trained = time.perf_counter() - start
        start = time.perf_counter()
        report = auditing.audit(model, x, y, canaries=1000, delta=DELTA, **arguments)
        took = time.perf_counter() - start
        print(f"fit {trained:.1f} s, audit {took:.1f} s", flush=True)
    print(report)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("recovery", "coverage", "seeds", "faults", "costs"))
    parser.add_argument("--seeds", type=int)
    chosen = parser.parse_args()
    parts = {
        "recovery": (recovery, 20),
        "coverage": (coverage, 1000),
        "seeds": (seeds_of_true_pipeline, 20),
        "faults": (faults, 2),
        "costs": (costs, 2),
    }
    run, default = parts[chosen.what]
    run(chosen.seeds or default)
