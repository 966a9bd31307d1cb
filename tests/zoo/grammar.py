"""Small random Keras models, each made of three kinds of layer, from one integer.

The kinds are in `kinds_anywhere`, `kinds_sequence` and `kinds_image`. A round of `ROUND` seeds
has every kind at least once, in another combination each round.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tests.zoo import heads, kinds_anywhere, kinds_image, kinds_sequence
from tests.zoo.drawing import RANKS, Drawing, limit, to

KINDS = {**kinds_anywhere.KINDS, **kinds_sequence.KINDS, **kinds_image.KINDS}
KINDS_PER_MODEL = 3
ROUND = math.ceil(len(KINDS) / KINDS_PER_MODEL)
IN_ORDER = 0.6  # how often volumes come before images, these before sequences, then vectors


@dataclass
class Drawn:
    """A model with data: `x` by input name, `y` and `loss` one for each output."""

    model: Any
    x: Any
    y: Any
    loss: list[Any]
    description: str
    seed: int | None = None
    kinds: tuple[str, ...] = ()


def plan(seed):
    """Return the names of the seed's kinds."""
    turn, place = divmod(seed, ROUND)
    order = np.random.default_rng(turn).permutation(sorted(KINDS))
    start = place * KINDS_PER_MODEL
    return tuple(str(order[i % len(order)]) for i in range(start, start + KINDS_PER_MODEL))


def draw(seed):
    """Draw the model of a seed, with random weights and data."""
    d = Drawing(seed)
    kinds = plan(seed)
    chosen = [(name, _domain(d, name)) for name in kinds]
    if d.maybe(IN_ORDER):
        chosen.sort(key=lambda pair: -RANKS.get(pair[1], max(RANKS.values()) + 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not support masking.*")
        warnings.filterwarnings("ignore", message=".*rms_scaling.*")
        model = _build(d, chosen)
    randomise(d.rng, model)
    description = f"seed {seed}: batch of {d.size}; {' '.join(d.words)}"
    return Drawn(model, d.x, d.y, d.losses, description, seed, kinds)


def _domain(d, name):
    domains = KINDS[name][0]
    return d.pick(*domains) if domains else "tokens"


def _build(d, chosen):
    x = None
    for name, domain in chosen:
        if domain != "tokens":
            d.say("adapt:")
            x = d.start(domain) if x is None else to(d, x, domain)
        d.say(f"{name}:")
        x = limit(d, KINDS[name][1](d, x))
    main = heads.LOSSES[int(d.rng.integers(len(heads.LOSSES)))]
    others = [add_side_head(d, side) for side in d.outputs]
    return keras.Model(d.inputs, [*others, heads.add_head(d, x, main)])


def add_side_head(d, x):
    return heads.add_head(d, to(d, x, "vector"), d.pick("mse", "sparse_logits"))


def randomise(rng, model):
    """Give every weight a random value, also those that Keras would start at 0 or 1."""
    for variable in model.variables:
        if variable.name == "seed_generator_state":
            variable.assign(rng.integers(0, 2**31, size=variable.shape).astype("uint32"))
        elif variable.dtype == "float32":
            variable.assign(_value(rng, variable).astype("float32"))


def _value(rng, variable):
    shape = tuple(variable.shape)
    if variable.name == "moving_variance":
        return rng.uniform(0.5, 2.0, size=shape)
    if variable.name in {"gamma", "scale", "gain", "temperature"}:
        return 1 + 0.2 * rng.normal(size=shape)
    if variable.name.endswith(("_min", "_max")):  # what lies outside is cut off
        return (1 + rng.uniform(size=shape)) * (-1 if variable.name.endswith("_min") else 1)
    fan_in = math.prod(shape[:-1]) if len(shape) > 1 else 4
    return rng.normal(size=shape) / math.sqrt(fan_in)
