"""One of several processes: python -m tests.mesh.worker ID PROCESSES PORT FOLDER SIZE."""

import json
import os
import sys
from pathlib import Path

NUMBER, PROCESSES, PORT, SIZE = (int(sys.argv[place]) for place in (1, 2, 3, 5))
FOLDER = Path(sys.argv[4])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={8 // PROCESSES}"

import keras

if PROCESSES > 1:
    addresses = ",".join([f"127.0.0.1:{PORT}"] * PROCESSES)
    keras.distribution.initialize(addresses, PROCESSES, NUMBER)

import numpy as np

from keras_dp.sampling import ArraySource
from tests.mesh.placements import data, model, on


def main():
    read, rows = [], ArraySource.rows

    def counted(source, indices):
        read.append(len(indices))
        return rows(source, indices)

    ArraySource.rows = counted
    found = {}
    with on("8"):
        for seed in (0, None):
            kept = FOLDER / "training.ledger" if seed == 0 else None
            private = model(seed=seed, ledger_file=kept)
            read.clear()
            try:
                logs = private.fit(
                    *data(SIZE),
                    batch_size=101,
                    steps_per_epoch=5,
                    verbose=0,
                ).history
            except ValueError as error:
                found["error"] = str(error)
                break
            weights = [np.asarray(v.value.addressable_data(0)) for v in private.trainable_variables]
            found[str(seed)] = {
                "logs": logs,
                "weights": [w.ravel().tolist() for w in weights],
                "updates": private.ledger.updates,
                "rows": sum(read),
            }
    (FOLDER / f"{NUMBER}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
