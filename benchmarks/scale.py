"""What scale costs: batch sizes, Keras' loop and the first update on one device; meshes.

    python benchmarks/scale.py batches    # examples a second and peak memory, 1,024 to 65,536
    python benchmarks/scale.py fit        # `fit` against a bare loop of the same compiled update
    python benchmarks/scale.py first      # seconds to the first update, and all compilations
    python benchmarks/scale.py mesh       # eight simulated devices: collectives, bytes, memory

The model is the CNN of `section_d.py`, on random images. What is compared runs in turn, round by
round; medians are given. The seconds of the processor are less disturbed by what else a machine
does. Memory and first updates are measured in a process of their own. A part is a function of the
arguments that yields rows, entered in `PARTS`.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("KERAS_BACKEND", "jax")
if "mesh" in sys.argv:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import keras
import numpy as np

import keras_dp
from keras_dp import planning

SHAPE = (28, 28, 1)
SIZES = (1024, 8192, 65536)
COMPILATION = "/jax/core/compile/backend_compile_duration"


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, *ALONE])
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="batch sizes")
    parser.add_argument("--microbatch-size", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--on-device", action="store_true", help="loop as on accelerators")
    parser.add_argument("--out", type=Path, help="append the results as JSON lines")
    return parser.parse_args(argv)


def private_model(arguments, sampling="poisson"):
    model = keras_dp.applications.TanhCNN()
    model.compile(
        keras_dp.optimizers.DPSGD(4.0, momentum=0.9, clip_norm=0.1, noise_multiplier=2.15),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        sampling=sampling,
        microbatch_size=arguments.microbatch_size,
    )
    return model


def images(size):
    """Random images without memory of their own: a few, again and again."""
    rng = np.random.default_rng(0)
    some = rng.normal(size=(1, *SHAPE)).astype("float32")
    return np.broadcast_to(some, (size, *SHAPE)), rng.integers(0, 10, size)


def in_turn(runs, rounds):
    """Return each run's wall and processor seconds in every round; the order rotates."""
    spent = {name: ([], []) for name in runs}
    names = list(runs)
    for run in runs.values():
        run()
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wall, processor = time.perf_counter(), time.process_time()
            runs[name]()
            spent[name][0].append(time.perf_counter() - wall)
            spent[name][1].append(time.process_time() - processor)
    return spent


def ratio(ones, others):
    """Return the median of the rounds' ratios: what disturbs a round disturbs both."""
    return median(one / other for one, other in zip(ones, others, strict=True))


def batches(arguments):
    """Examples a second at each batch size, with as many examples in a round, and peak memory."""
    most = max(arguments.sizes)
    x, y = images(most)
    runs = {}
    for size in arguments.sizes:
        model = private_model(arguments, "full_batch")
        runs[size] = partial(model.fit, x[:size], y[:size], steps_per_epoch=most // size, verbose=0)
    times = in_turn(runs, arguments.rounds)
    first_wall, first_processor = times[arguments.sizes[0]]
    for size, (wall, processor) in times.items():
        yield {
            "batch": size,
            "examples_a_second": most / median(wall),
            "speed": ratio(first_wall, wall),
            "speed_by_processor": ratio(first_processor, processor),
            **alone("memory", arguments, size),
        }


def memory(arguments):
    """Peak memory of training, and what it was before; without the peak of compilation."""
    size = arguments.sizes[0]
    model = private_model(arguments)
    fit = partial(model.fit, *images(2 * size), batch_size=size, verbose=0)
    fit(steps_per_epoch=1)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = resident("VmRSS")
    fit(steps_per_epoch=3)
    return {"resident_mib": before, "peak_mib": resident("VmHWM")}


def resident(name):
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def fit(arguments):
    """`fit` and a bare loop of the same compiled functions, whose examples are on the device."""
    size, updates = arguments.sizes[0], 24
    x, y = images(size)
    model = private_model(arguments, "full_batch")
    train = partial(model.fit, x, y, steps_per_epoch=updates)
    train(verbose=0)
    runs = {
        "bare loop": partial(bare_updates, Bare(model, x, y), updates),
        "fit": partial(train, verbose=0),
        "fit, progress bar": partial(silently, partial(train, verbose=1)),
    }
    times = in_turn(runs, arguments.rounds)
    bare = times["bare loop"]
    for name, (wall, processor) in times.items():
        yield {
            "loop": name,
            "batch": size,
            "milliseconds": 1000 * median(wall) / updates,
            "ratio": ratio(wall, bare[0]),
            "inside": ratio(bare[0], wall),
            "ratio_of_fastest": min(wall) / min(bare[0]),
            "ratio_by_processor": ratio(processor, bare[1]),
        }


class Bare:
    """The compiled functions of a model that was trained, and all that they take, on the device."""

    def __init__(self, model, x, y):
        source = keras_dp.sampling.ArraySource(x, y)
        run = planning.plan_run(model, source, model.sampler, len(y), model._guard)
        self.optimizer, self.function = model.optimizer, model.train_function.update
        self.mechanism, batch = run.mechanism(), run.draw()
        on_device = self.function._on_device
        self.pieces = jax.device_put(
            [run.columns(batch)] if on_device else list(run.microbatches(batch))
        )
        lists = (model.trainable_variables, model.non_trainable_variables)
        lists = (*lists, model.optimizer.variables, model.metrics_variables)
        self.state = [[jax.numpy.copy(v.value) for v in variables] for variables in lists]


def bare_updates(bare, updates):
    for _ in range(updates):
        bare.state = (whole if bare.function._on_device else summed)(bare)
    jax.block_until_ready(bare.state)


def whole(bare):
    _, state = bare.function._whole(tuple(bare.state), (bare.pieces[0], bare.mechanism))
    return state


def summed(bare):
    params, frozen, own, metrics = bare.state
    sums = bare.function._start(params)
    norm = bare.optimizer.present_clip_norm(own, bare.mechanism.clip_norm)
    for piece in bare.pieces:
        sums, metrics, _ = bare.function.accumulate((params, frozen, metrics), sums, piece, norm)
    return bare.function._finish((params, frozen, own, metrics), sums, bare.mechanism)


def silently(run):
    with contextlib.redirect_stdout(io.StringIO()):
        run()


def first(arguments):
    """Seconds to the first update, and compilations in it and later, for each batch size."""
    for size in arguments.sizes:
        yield {"batch": size, **alone("latency", arguments, size)}


def latency(arguments):
    size = arguments.sizes[0]
    compiled, stamps = [], [time.perf_counter()]
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if event == COMPILATION else None
    )
    counts = []

    class Stamp(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            stamps.append(time.perf_counter())
            counts.append(len(compiled))

    model = private_model(arguments)
    built = len(compiled)
    train = partial(model.fit, *images(2 * size), batch_size=size, verbose=0)
    stamps[0] = time.perf_counter()
    train(steps_per_epoch=1, callbacks=[Stamp()])
    in_first = len(compiled)
    train(steps_per_epoch=5, callbacks=[Stamp()])
    return {
        "first_seconds": stamps[1] - stamps[0],
        "of_it_compiling": sum(compiled[built : counts[0]]),
        "programs": in_first - built,
        "programs_later": len(compiled) - in_first,
        "later_seconds": median(np.diff(stamps[2:])),
    }


def mesh(arguments):
    """What devices say to each other and hold, for several meshes; see scale_mesh.py."""
    from scale_mesh import meshes

    keras_dp.backend.loops_on_device = lambda: True
    yield from meshes(partial(private_model, arguments), images)


def alone(part, arguments, size):
    """Return the result of a part for one batch size, from a process of its own."""
    command = [sys.executable, __file__, part, "--sizes", str(size)]
    if arguments.microbatch_size:
        command += ["--microbatch-size", str(arguments.microbatch_size)]
    if arguments.on_device:
        command.append("--on-device")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


PARTS = {"batches": batches, "fit": fit, "first": first, "mesh": mesh}
ALONE = {"memory": memory, "latency": latency}


def main(argv=None):
    arguments = parse(argv)
    if arguments.on_device:
        keras_dp.backend.loops_on_device = lambda: True
    if arguments.part in ALONE:
        print(json.dumps(ALONE[arguments.part](arguments)))
        return
    for number, row in enumerate(PARTS[arguments.part](arguments)):
        if number == 0:
            print("|", " | ".join(row), "|\n" + "|---" * len(row) + "|")
        cells = [f"{c:,.4g}" if isinstance(c, float) else str(c) for c in row.values()]
        print("|", " | ".join(cells), "|", flush=True)
        if arguments.out:
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"part": arguments.part, **row}) + "\n")


if __name__ == "__main__":
    main()
