"""Kills training runs at random moments, resumes them, and tells what the ledger says then.

    python -m tests.training.killed FOLDER RUNS SEED

prints one line of JSON with the outcomes. Each run is killed once, with SIGKILL. Processes are
forked after the imports and before anything is computed, which saves their start.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np

import keras_dp
from keras_dp import noise
from keras_dp.accounting import LedgerFile

EPOCHS, STEPS, DELTA = 6, 5, 1e-3


def train(folder, with_file):
    """Train, or go on with training, and write down the outcome at the end."""
    jax.config.update("jax_compilation_cache_dir", str(folder.parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    log = os.open(folder / "keys", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    draw_key = noise.noise_key

    def logged(*settings):
        key = draw_key(*settings)
        os.write(log, f"{key.tobytes().hex()}\n".encode())
        return key

    noise.noise_key = logged
    inputs = keras.Input((4,), name="inputs")
    model = keras_dp.DPModel(inputs, keras.layers.Dense(3, name="head")(inputs))
    kind = "discrete_gaussian" if with_file else "gaussian"
    optimizer = keras_dp.optimizers.DPAdam(0.01, noise_multiplier=1.0, noise=kind)
    ledger_file = folder / "training.ledger" if with_file else None
    model.compile(optimizer, loss="mse", ledger_file=ledger_file)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 4)).astype("float32"), rng.normal(size=(100, 3)).astype("float32")
    backup = keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=True)
    (folder / "started").touch()
    model.fit(x, y, batch_size=20, epochs=EPOCHS, verbose=0, callbacks=[backup])
    model.save(folder / "model.keras")
    spent = model.privacy_spent(delta=DELTA)
    result = {"epsilon": spent.epsilon, "updates": spent.updates}
    (folder / "result.json").write_text(json.dumps(result))


def start(folder, with_file):
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BrokenPipeError):
            try:
                train(folder, with_file)
                code = 0
            finally:
                os._exit(code)
    return pid


def keys_of(folder):
    return (folder / "keys").read_text().split()


def mend(backup):
    """Make up for Keras, which empties the file with the epoch before it writes it anew.

    At the end it removes the weights before that file. Without it a run begins at the first epoch.
    """
    epoch = backup / "training_metadata.json"
    if epoch.exists() and not (epoch.read_text() and (backup / "latest.weights.h5").exists()):
        epoch.unlink()


def outcome(folder, kill_after, with_file):
    """Kill a run some seconds after so many updates, let another go on, and read what they left."""
    pid = start(folder, with_file)
    if kill_after is not None:
        updates, seconds = kill_after
        while not (folder / "started").exists() or len(keys_of(folder)) < updates:
            time.sleep(0.001)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        mend(folder / "backup")
        pid = start(folder, with_file)
    _, status = os.waitpid(pid, 0)
    keys = keys_of(folder)
    result = {"exit": status, "keys": len(keys), "repeated": len(keys) - len(set(keys))}
    if (folder / "result.json").exists():
        result |= json.loads((folder / "result.json").read_text())
    if with_file:
        result["written"] = LedgerFile.open(folder / "training.ledger").ledger.updates
    return result


def main(folder, runs, seed):
    folder, rng = Path(folder), random.Random(seed)

    def fresh(name):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        return folder / name

    whole = outcome(fresh("first"), None, False)
    began = time.perf_counter()
    outcome(fresh("timed"), None, False)
    seconds = time.perf_counter() - began
    found = []
    for run in range(runs):
        with_file = run % 2 == 1
        kill_after = rng.randint(0, EPOCHS * STEPS), rng.uniform(0, seconds / 40)
        found.append(
            outcome(fresh(f"run{run}"), kill_after, with_file)
            | {"with_file": with_file, "kill_after": kill_after}
        )
    print(json.dumps({"whole": whole, "seconds": seconds, "killed": found}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
