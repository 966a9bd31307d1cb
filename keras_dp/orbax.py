"""The ledger in a checkpoint that `keras.callbacks.OrbaxCheckpoint` wrote."""

import json
from pathlib import Path

from keras_dp.accounting import Ledger

LEDGER_KEY = "privacy_ledger"
"""Under this key the ledger is in a model's compile configuration, and in its own variables."""

_CONFIG = "model_config"


def ledger_in(folder: Path) -> Ledger | None:
    """Return the ledger of a checkpoint, or `None` when it holds weights only.

    Args:
        folder: The folder of one checkpoint, or one that holds numbered checkpoints, of which the
            last counts.
    """
    steps = [entry for entry in folder.iterdir() if entry.name.isdigit()]
    if steps:
        folder = max(steps, key=lambda entry: int(entry.name))
    if not (folder / _CONFIG).is_dir():
        return None
    from orbax.checkpoint import v1  # it wrote the checkpoint that was just loaded

    config = json.loads(v1.load_checkpointables(folder, {_CONFIG: None})[_CONFIG]["config"])
    found = (config.get("compile_config") or {}).get(LEDGER_KEY)
    return None if found is None else Ledger.from_config(found)
