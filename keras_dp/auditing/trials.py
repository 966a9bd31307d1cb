"""The training runs of an audit: a copy of the model, through the ordinary `fit`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_dp import backend, keys
from keras_dp.auditing import canaries as planting
from keras_dp.auditing.canaries import Bools, Coordinates, Planted
from keras_dp.auditing.model import SCALE, AuditedModel
from keras_dp.auditing.recording import (
    RealGradients,
    RecordingOptimizer,
    copied_settings,
    recorded,
)
from keras_dp.auditing.scores import Floats, Seen
from keras_dp.clip_rules import ClipRule
from keras_dp.errors import NotPrivateError
from keras_dp.optimizers import DPOptimizer
from keras_dp.plan import PrivacyPlan, updates_per_epoch
from keras_dp.sampling import ArraySource

_MUCH = 1e6


@dataclass(frozen=True)
class Setup:
    """What is audited, and how.

    Attributes:
        model: The user's model, which stays as it is.
        copy: The copy of it that is trained.
        source: The user's data.
        canaries: Number of canaries in each run.
        runs: Number of runs.
        batch_size: The declared batch size.
        epochs: Number of epochs.
        seed: The seed, or `None`.
    """

    model: Any
    copy: Any
    source: ArraySource
    canaries: int
    runs: int
    batch_size: int
    epochs: int
    seed: int | None

    @property
    def examples(self) -> int:
        """Number of examples with canaries."""
        return self.source.size + self.canaries

    @property
    def steps(self) -> int:
        """Updates in an epoch."""
        return updates_per_epoch(self.examples, self.batch_size)

    @property
    def probability(self) -> float:
        """With which an example takes part in an update."""
        return self.batch_size / self.examples

    @property
    def noise_seed(self) -> int | None:
        """Seed of noise and sampling, unrelated to that of the coins."""
        if self.seed is None:
            return None
        return int.from_bytes(keys.update_key(self.seed, "audit noise", 0, 7), "little")


@dataclass(frozen=True)
class Outcome:
    """What all runs together gave.

    Attributes:
        included: For each canary whether it took part.
        plan: How every update was privatized, by the ledger.
        updates: Number of updates in a run, by the ledger.
        seen: What was seen of gradient canaries, else `None`.
        paths: Paths of the trainable variables.
        losses: By how much training lowered the loss of each input canary, else `None`.
    """

    included: Bools
    plan: PrivacyPlan
    updates: int
    seen: Seen | None = None
    paths: tuple[str, ...] = ()
    losses: Floats | None = None


class Trials:
    """An audited model that is trained several times from the same start.

    Args:
        setup: What is audited.
        optimizer: The optimizer to train it with.
    """

    def __init__(self, setup: Setup, optimizer: DPOptimizer) -> None:
        self._setup = setup
        model = setup.model
        self.audited = AuditedModel(setup.copy, SCALE * optimizer.clip_norm)
        self.audited.compile(
            optimizer,
            sampling=model.sampler,
            microbatch_size=model.microbatch_size,
            jit_compile=model.jit_compile,
            run_eagerly=model.run_eagerly,
        )
        optimizer.build(self.audited.trainable_variables)
        variables = [*self.audited.variables, *optimizer.variables]
        self._start = [(variable, variable.numpy()) for variable in variables]

    def restart(self) -> None:
        """Go back to the weights, and the optimizer's state, of the start."""
        for variable, value in self._start:
            variable.assign(value)

    def train(self, planted: Planted, callbacks: Sequence[Any] = ()) -> None:
        """Train on data with canaries."""
        self.audited.fit(
            planted.x,
            planted.y,
            batch_size=self._setup.batch_size,
            epochs=self._setup.epochs,
            callbacks=list(callbacks),
            verbose=0,
        )

    def outcome(self, included: Sequence[Bools], **found: Any) -> Outcome:
        """Return what was found, with what the ledger says of one run."""
        ledger = self.audited.ledger
        updates = ledger.updates // self._setup.runs
        if not updates:
            raise NotPrivateError(
                "Training wrote no update to the ledger: nothing is claimed of it."
            )
        return Outcome(np.concatenate(included), ledger.releases[0].plan, updates, **found)


def gradient_trials(setup: Setup) -> Outcome:
    """Train with gradient canaries and keep what an adversary sees at their weights."""
    copy = setup.copy
    shapes = [tuple(variable.shape) for variable in copy.trainable_variables]
    shares = planting.spread([int(np.prod(shape)) for shape in shapes], setup.canaries)
    updates = setup.epochs * setup.steps
    optimizer = RecordingOptimizer(setup.model.optimizer, updates, shares, setup.noise_seed)
    trials = Trials(setup, optimizer)
    reals = RealGradients(_ordinary(setup), setup.batch_size, setup.probability, shares)
    included, sums, all_coordinates, places = [], [], [], []
    for run in range(setup.runs):
        rng = planting.generator(setup.seed, "places", run)
        coordinates = planting.choose_coordinates(shapes, shares, rng)
        coins = planting.toss(setup.seed, run, setup.canaries)
        planted = planting.plant_gradients(setup.source, coordinates, coins, rng)
        trials.restart()
        optimizer.point_at(coordinates, shapes)
        trials.train(planted, [reals])
        included.append(coins)
        sums.append(recorded(optimizer, setup.batch_size) - reals.expected(setup.steps))
        all_coordinates.append(coordinates)
        places.append(planted.places)
    seen = _seen(setup, trials, np.concatenate(sums, 1), all_coordinates, np.concatenate(places))
    paths = tuple(variable.path for variable in copy.trainable_variables)
    return trials.outcome(included, seen=seen, paths=paths)


def input_trials(setup: Setup) -> Outcome:
    """Train with input canaries and keep by how much training lowered their losses."""
    settings = copied_settings(setup.model.optimizer)
    trials = Trials(setup, DPOptimizer(**settings, seed=setup.noise_seed))
    included, losses = [], []
    for run in range(setup.runs):
        rng = planting.generator(setup.seed, "places", run)
        coins = planting.toss(setup.seed, run, setup.canaries)
        planted = planting.plant_inputs(setup.source, coins, rng)
        own = ArraySource(planted.x["x"], planted.y).take(planted.places)
        trials.restart()
        before = backend.example_losses(setup.copy, own)
        trials.train(planted)
        included.append(coins)
        losses.append(before - backend.example_losses(setup.copy, own))
    return trials.outcome(included, losses=_finite(np.concatenate(losses)))


def _ordinary(setup: Setup) -> ArraySource:
    """Return the user's data in the form that the audited model takes, without canaries."""
    canary = np.tile(np.array([planting.REAL, 0, 0], np.int32), (setup.source.size, 1))
    return ArraySource({"x": setup.source.x, "canary": canary}, setup.source.y)


def _seen(
    setup: Setup, trials: Trials, sums: Floats, chosen: Sequence[Coordinates], places: Any
) -> Seen:
    optimizer = trials.audited.optimizer
    rule, norm = optimizer.clip_rule, optimizer.clip_norm
    return Seen(
        sums=_finite(sums),
        variables=np.concatenate([one.variables for one in chosen]),
        places=places,
        probability=setup.probability,
        noise=rule.sum_noise_multiplier(optimizer.noise_multiplier, setup.batch_size),
        signal=signal(rule, norm, trials.audited.trainable_variables),
        steps=setup.steps,
        batch_size=setup.batch_size,
    )


def signal(rule: ClipRule, clip_norm: float, variables: Sequence[Any]) -> float:
    """Return what a gradient canary adds to the sum, in units of the sensitivity.

    It is 1 but for a rule that clips each layer by itself: a canary fills the share of one layer.
    """
    layers = len({variable.path.rpartition("/")[0] for variable in variables})
    raw = np.float32(SCALE * clip_norm)
    return float(raw * rule.factors(raw, clip_norm, layers) / rule.sensitivity(clip_norm))


def _finite(values: Any) -> Floats:
    """Take what is no number, after training that diverged, for no evidence."""
    return np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=_MUCH, neginf=-_MUCH)
