"""One of several processes: python -m tests.mesh.worker ID PROCESSES PORT FOLDER SIZE."""

import json
import os
import sys
from pathlib import Path


def main(number, processes, port, folder, size):
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={8 // processes}"
    import keras
    import numpy as np

    if processes > 1:
        addresses = ",".join([f"127.0.0.1:{port}"] * processes)
        keras.distribution.initialize(addresses, processes, number)
    from keras_dp.sampling import ArraySource
    from tests.mesh.placements import data, model, on

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
            try:
                logs = private.fit(
                    *data(size),
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
    (folder / f"{number}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    own, of, at, into, examples = sys.argv[1:]
    main(int(own), int(of), int(at), Path(into), int(examples))
