"""Canaries: examples planted among the training data, each included by the toss of a coin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_dp import keys
from keras_dp.sampling import ArraySource
from keras_dp.types import Tree

REAL, LEFT_OUT = -1, -2
"""What stands in the place of a canary's weight for an ordinary example, and for one without a
loss, which adds nothing to any gradient."""

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_TRIES = 8


@dataclass(frozen=True)
class Planted:
    """The training data of one run with canaries among them.

    A canary that the coin left out keeps its place as an example without a loss. So the number of
    examples, and with it the sampling probability, tells nothing about the coins.

    Attributes:
        x: Dict of the model's inputs `x` and, for each example, `canary`: the number of a
            trainable variable with row and column in it, or `REAL` or `LEFT_OUT` and two zeros.
        y: Targets, or `None`.
        included: For each canary whether it takes part.
        places: For each canary its position among the examples.
    """

    x: dict[str, Tree]
    y: Tree
    included: Bools
    places: Ints


@dataclass(frozen=True)
class Coordinates:
    """The weights on which gradient canaries act, one each.

    A variable is taken as a matrix: its last axis makes the columns. Both the weights and the
    number of canaries on a variable are chosen without a look at the data.

    Attributes:
        variables: For each canary the number of its trainable variable, in ascending order.
        rows: Its row there.
        columns: Its column there.
    """

    variables: Ints
    rows: Ints
    columns: Ints


def generator(seed: int | None, purpose: str, run: int) -> np.random.Generator:
    """Return the generator for one purpose in one run, unrelated to any noise.

    Args:
        seed: `None` for the operating system's entropy.
        purpose: Such as `"coins"`.
        run: Number of the run.
    """
    words = keys.update_key(seed, f"audit {purpose}", run, 16)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(words, "little")))


def toss(seed: int | None, run: int, count: int) -> Bools:
    """Toss a fair coin for each canary."""
    return generator(seed, "coins", run).random(count) < 0.5


def spread(sizes: Sequence[int], count: int) -> list[int]:
    """Share out canaries among variables: as evenly as their sizes allow.

    Small variables get as many as large ones until they are full, because noise may be missing on
    any of them, and few canaries prove nothing.

    Args:
        sizes: Number of weights of each variable.
        count: Number of canaries, at most the sum of the sizes.
    """
    shares = [0] * len(sizes)
    left = count
    for position in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        others = sum(1 for i in range(len(sizes)) if shares[i] == 0 and sizes[i] > 0)
        shares[position] = min(sizes[position], -(-left // max(1, others)))
        left -= shares[position]
    return shares


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return the shape of a variable as a matrix; a vector is a column."""
    columns = int(shape[-1]) if len(shape) > 1 else 1
    return int(np.prod(shape)) // max(1, columns), columns


def choose_coordinates(
    shapes: Sequence[Sequence[int]], shares: Sequence[int], rng: np.random.Generator
) -> Coordinates:
    """Choose for each canary a weight of its own, at random.

    Args:
        shapes: Shapes of the trainable variables.
        shares: Number of canaries on each.
        rng: Generator.
    """
    chosen = [
        rng.choice(int(np.prod(shape)), share, replace=False)
        for shape, share in zip(shapes, shares, strict=True)
    ]
    columns = np.repeat([matrix_shape(shape)[1] for shape in shapes], shares)
    flat = np.concatenate(chosen).astype(np.int64)
    variables = np.repeat(np.arange(len(shapes)), shares)
    return Coordinates(variables, flat // columns, flat % columns)


def plant_gradients(
    source: ArraySource, coordinates: Coordinates, included: Bools, rng: np.random.Generator
) -> Planted:
    """Put gradient canaries among the data, at random places.

    Their inputs and targets are those of random examples, so that the user's loss is a sound number
    for them too; it is not used.

    Args:
        source: The data.
        coordinates: What each canary acts on.
        included: Whether it takes part.
        rng: Generator for places and copies.
    """
    kinds = np.stack([coordinates.variables, coordinates.rows, coordinates.columns], 1)
    kinds = np.where(included[:, None], kinds, [LEFT_OUT, 0, 0])
    return _plant(source, kinds, included, rng)


def plant_inputs(source: ArraySource, included: Bools, rng: np.random.Generator) -> Planted:
    """Put input canaries among the data: copies of random examples with another's targets.

    Args:
        source: The data, with targets.
        included: Whether each canary takes part.
        rng: Generator for places, copies and targets.
    """
    kinds = np.where(included, REAL, LEFT_OUT)[:, None] * np.array([1, 0, 0])
    planted = _plant(source, kinds, included, rng)
    sources = _other_targets(planted.y, planted.places, rng)

    def exchange(leaf: Any) -> Any:
        changed = leaf.copy()
        changed[planted.places] = leaf[sources]
        return changed

    mislabelled = _map(exchange, planted.y)
    return Planted(planted.x, mislabelled, planted.included, planted.places)


def _plant(source: ArraySource, kinds: Any, included: Bools, rng: np.random.Generator) -> Planted:
    real, count = source.size, len(included)
    order = rng.permutation(real + count)
    rows = np.concatenate([np.arange(real), rng.integers(real, size=count)])[order]
    canary = np.concatenate([np.tile([REAL, 0, 0], (real, 1)), kinds])[order]
    places = np.empty(real + count, np.int64)
    places[order] = np.arange(real + count)
    x, y, _ = source.take(rows)
    return Planted({"x": x, "canary": canary.astype(np.int32)}, y, included, places[real:])


def _other_targets(y: Tree, places: Ints, rng: np.random.Generator) -> Ints:
    """Return for each place a position whose targets differ, if a few tries find one."""
    leaves = [leaf for leaf in keras.tree.flatten(y) if leaf is not None]
    size = len(leaves[0])
    chosen = rng.integers(size, size=len(places))
    for _ in range(_TRIES):
        same = np.ones(len(places), np.bool_)
        for leaf in leaves:
            equal = leaf[chosen] == leaf[places]
            same &= equal.reshape(len(places), -1).all(1)
        chosen = np.where(same, rng.integers(size, size=len(places)), chosen)
    return chosen


def _map(function: Any, tree: Tree) -> Tree:
    return keras.tree.map_structure(lambda leaf: None if leaf is None else function(leaf), tree)
