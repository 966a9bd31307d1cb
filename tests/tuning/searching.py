"""Small searches: models that train for real, and ones that only pretend to."""

import keras
import keras_tuner
import numpy as np

import keras_dp
from keras_dp.tuning import PrivateRandomSearch
from tests.kinds import L

BUDGET = keras_dp.Budget(epsilon=3.0, delta=1e-4)
SIZES = {"batch_size": 100, "epochs": 2}
UNPUBLISHED = 12345.625  # with a point, so that it is part of no random name


def data(size=1000):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, 4)).astype("float32")
    return x, x[:, :1] - x[:, 1:2]


def held_out():
    x, y = data(200)
    return x + 1, y


def private(units=1, clip_norm=1.0, optimizer=None, budget=BUDGET, **compiling):
    """A compiled private model, as a build function should return it."""
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, L.Dense(1)(L.Dense(units)(inputs)))
    optimizer = optimizer or keras_dp.optimizers.DPSGD(0.1, clip_norm=clip_norm)
    model.compile(optimizer, **{"loss": "mse", "budget": budget, **compiling})
    return model


def build(hp):
    """Models of different width and clip norm."""
    return private(hp.Choice("units", [1, 2, 3]), hp.Choice("clip_norm", [0.5, 1.0]))


class Pretending(keras_tuner.HyperModel):
    """Models that are built but not trained; their score is a function of the hyper-parameters.

    Args:
        score: Function from the number of the run and the hyper-parameters to the score.
        building: The build function.
    """

    def __init__(self, score=None, building=build):
        super().__init__()
        self.score = score or (lambda run, hp: hp["units"] + hp["clip_norm"] / 10)
        self.building, self.runs, self.models = building, [], []

    def build(self, hp):
        return self.building(hp)

    def fit(self, hp, model, *args, callbacks=(), **kwargs):
        score = self.score(len(self.runs), hp)
        self.runs.append(dict(hp.values))
        model.trainable_variables[0].assign(0 * model.trainable_variables[0] + score)
        callbacks[-1].set_model(model)
        callbacks[-1].on_epoch_end(0, {"val_loss": score})
        return {"val_loss": score, "loss": UNPUBLISHED}


class CountedPretending(Pretending):
    """As `Pretending`, and remembers the models' first weights."""

    def fit(self, hp, model, *args, **kwargs):
        self.models.append([np.array(v) for v in model.trainable_variables])
        return super().fit(hp, model, *args, **kwargs)


def search_of(hypermodel, folder, objective="val_loss", runs=None, **settings):
    """A tuner before its search, which makes so many runs if their number is given."""
    settings = {"budget": BUDGET, "mean_runs": 3, "seed": 1, **settings}
    tuner = PrivateRandomSearch(hypermodel, objective, directory=folder, **settings)
    if runs is not None:
        number = tuner.oracle.number

        def decided(purpose, run, bits):
            if purpose == "number of runs":
                return 0 if run < runs else 2**bits - 1
            return number(purpose, run, bits)

        tuner.oracle.number = decided
    return tuner


def searched(hypermodel, folder, objective="val_loss", **settings):
    """A tuner whose search is over."""
    tuner = search_of(hypermodel, folder, objective, **settings)
    tuner.search(*data(), validation_data=held_out(), **SIZES)
    return tuner
