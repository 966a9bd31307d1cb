"""What one of several processes does."""

import json
import os
import re
import signal


def start(number, processes, devices, port):
    """Bring this process into the run, with its share of the devices."""
    share = f"device_count={devices // processes}"
    os.environ["XLA_FLAGS"] = re.sub(r"device_count=\d+", share, os.environ["XLA_FLAGS"])
    import keras

    if processes > 1:
        addresses = ",".join([f"127.0.0.1:{port}"] * processes)
        keras.distribution.initialize(addresses, processes, number)


def train(folder, number, size=640, share=0):
    """Train with a seed and a ledger, then without; return what was found."""
    import numpy as np

    from keras_dp.sampling import ArraySource
    from tests.mesh.placements import data, model, on, values

    read, rows = [], ArraySource.rows

    def counted(source, indices):
        read.append(len(indices))
        return rows(source, indices)

    ArraySource.rows = counted
    found = {}
    with on("8"):
        for seed in (0, None):
            kept = folder / "training.ledger" if seed == 0 else None
            private = model(seed=seed, ledger_file=kept)
            read.clear()
            held_out = tuple(part[:50] for part in data()) if seed == 0 else None
            fit = {"batch_size": 101, "steps_per_epoch": 5, "verbose": 0}
            try:
                given = [np.roll(part, share, axis=0) for part in data(size)]
                logs = private.fit(*given, validation_data=held_out, **fit).history
            except ValueError as error:
                return {"error": str(error)}
            found[str(seed)] = {
                "logs": logs,
                "weights": values(private),
                "ledger": private.ledger.get_config(),
                "rows": sum(read) - (50 if held_out else 0),
            }
    return found


def save(folder, number):
    """Train with a checkpoint, of weights that no process has the whole of, and go on from it."""
    import keras

    from tests.mesh.placements import data, model, on

    with on("1x8"):
        private = model(dropout=0.0)
        kept = keras.callbacks.ModelCheckpoint(folder / "new" / "last.keras")
        fit = {"batch_size": 101, "steps_per_epoch": 3, "verbose": 0}
        private.fit(*data(), callbacks=[kept], **fit)
        private.load_weights(folder / "new" / "last.keras")
        counted = private.ledger.updates
        private.fit(*data(), **fit)
        private.save_weights(folder / "new" / "end.weights.h5")
        return {"updates": [counted, private.ledger.updates]}


def fill(folder, number):
    """Save where the first process cannot."""
    from tests.mesh.placements import model, on

    with on("8"):
        private = model()
        try:
            private.save(folder / "nowhere" / "model.keras")
        except OSError as error:
            return {"error": f"{type(error).__name__}: {error}"}


def lose(folder, number, mesh="8", at=None, with_file=True):
    """Train four epochs of five updates with backups; process 1 dies in the epoch `at`."""
    import keras

    from tests.mesh.placements import trained, values

    class Dying(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if (self.params["epochs"], batch, number) == (4, 2, 1) and self.epoch == at:
                os.kill(os.getpid(), signal.SIGKILL)

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    spent = {}
    count = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: spent.update(
            weights=values(count.model),
            epsilon=count.model.privacy_spent(delta=1e-5).epsilon,
            updates=count.model.ledger.updates,
        )
    )
    backup = keras.callbacks.BackupAndRestore(folder / "backup")
    settings = {"ledger_file": folder / "training.ledger" if with_file else None, "dropout": 0.0}
    trained(mesh, steps=5, epochs=4, callbacks=[backup, Dying(), count], **settings)
    return spent


def work(number, processes, devices, port, folder, what, settings):
    start(number, processes, devices, port)
    found = {"train": train, "save": save, "fill": fill, "lose": lose}[what](
        folder, number, **settings
    )
    (folder / f"{number}.json").write_text(json.dumps(found))
