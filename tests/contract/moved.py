"""Ten private updates on the backend of this process: `python moved.py file-before file-after`.

Without a file before, a new model is trained. Prints what the model was like before and after.
"""

import json
import sys

import keras
import numpy as np

import keras_dp
from keras_dp.augmentation import SEED_STATE
from keras_dp.optimizers import DPAdam

SETTINGS = {"noise_multiplier": 1.3, "batch_size": 10, "dataset_size": 100}
UPDATES = 10


def made():
    inputs = keras.Input((4,))
    x = keras.layers.Dropout(0.3)(keras.layers.Dense(6, activation="relu")(inputs))
    model = keras_dp.DPModel(inputs, keras.layers.Dense(3)(x))
    model.compile(
        DPAdam(0.01, noise_multiplier=SETTINGS["noise_multiplier"], use_ema=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        budget=keras_dp.Budget(epsilon=50.0, delta=1e-3),
    )
    return model


def state(model):
    """Return all that a file of Keras holds, as lists of numbers: seed generators begin anew."""
    variables = [*model.variables, *model.optimizer.variables]
    variables = [variable for variable in variables if variable.name != SEED_STATE]
    return [np.asarray(variable.numpy(), np.float64).ravel().tolist() for variable in variables]


def main(before, after):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 4)).astype("float32"), rng.integers(0, 3, 100)
    model = keras.models.load_model(before) if before else made()
    at_first = state(model) if before else None
    model.fit(x, y, batch_size=SETTINGS["batch_size"], epochs=1, verbose=0)
    model.save(after)
    found = {
        "backend": keras.backend.backend(),
        "before": at_first,
        "after": state(model),
        "updates": model.ledger.updates,
        "epsilon": model.privacy_spent().epsilon,
        "statement": str(model.privacy_statement()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
