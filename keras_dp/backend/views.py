"""What an augmentation may do with an example, and its views made one by one on the host."""

import hashlib
from operator import itemgetter
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_dp.augmentation import Augmentation
from keras_dp.errors import NotPrivateError
from keras_dp.sampling.rows import leaves, map_leaves
from keras_dp.types import Tree


class BadViewsError(ValueError):
    """Views that no model can be trained on, whichever way they are made."""


def check_writes(augmentation: Augmentation, written: set[int]) -> None:
    """Refuse an augmentation that writes to variables other than its seeds.

    Args:
        augmentation: Made a view.
        written: Ids of the variables that it wrote to.

    Raises:
        NotPrivateError: for a layer that stores what it computes.
        BadViewsError: for random numbers that are not its own.
    """
    for variable in written:
        owner = augmentation.owner(variable)
        if owner:
            raise NotPrivateError(
                "`augmentation` must not store values computed from the training data. Received a "
                f"layer that does: {owner}. Set `layer.trainable = False`, or leave it out."
            )
        raise BadViewsError(
            "`augmentation` draws random numbers that are not its own, so that all views would be "
            "equal: a function with layers or seed generators inside. Pass the layers themselves, "
            "several as `keras.layers.Pipeline([...])`, or use the `seed` that the function is "
            f"given. Received: {augmentation.function!r}."
        )


def checked(row: Tree, made: Tree) -> Tree:
    """Return a view without its batch axis.

    Args:
        row: The example, without batch axis.
        made: What the augmentation made of a batch with this example alone.

    Raises:
        BadViewsError: for another structure, or what is no number fit for training.
    """
    given, returned = (keras.tree.map_structure(_star, tree) for tree in (row, made))
    if given != returned:
        raise BadViewsError(
            "`augmentation` must return the inputs `x` in the structure that they came in; targets "
            f"and weights stay as they are. Received {given}, returned {returned}."
        )
    return keras.tree.map_structure(
        lambda before, after: None if before is None else _checked_leaf(before, after), row, made
    )


def _star(leaf: Any) -> Any:
    return None if leaf is None else "*"


def _checked_leaf(before: Any, after: Any) -> Any:
    shape = tuple(after.shape)
    old, new = (keras.backend.standardize_dtype(a.dtype) for a in (before, after))
    if shape[:1] != (1,):
        raise BadViewsError(
            "`augmentation` is called with a batch of one example and must return a batch of one. "
            f"Received shape {(1, *before.shape)}, returned {shape}."
        )
    if not (keras.backend.is_float_dtype(new) or new == old):
        raise BadViewsError(
            "`augmentation` must return floating-point numbers, or leave the type as it is. "
            f"Received {old}, returned {new}."
        )
    return after[0]


def make_views(augmentation: Augmentation, x: Tree, positions: Any, key: Any) -> Tree:
    """Return random views of examples, each made from its example alone.

    Args:
        augmentation: Makes a view.
        x: Examples, each leaf with one row for each.
        positions: Their places, from which, with the key, random numbers follow.
        key: uint32 array of shape `(2,)`, this update's.

    Returns:
        Tensors of shape `(examples, views, ...)`.
    """
    return map_leaves(keras.ops.convert_to_tensor, views_on_host(augmentation, x, positions, key))


def views_on_host(
    augmentation: Augmentation, x: Tree, positions: npt.NDArray[np.int64], key: Any
) -> Tree:
    """Return random views of examples that were read.

    Args:
        augmentation: Makes a view.
        x: Examples, each leaf of shape `(*positions.shape, ...)`.
        positions: Their positions in the data.
        key: As for `make_views`.

    Returns:
        NumPy arrays of shape `(*positions.shape, views, ...)`.
    """
    positions = np.asarray(positions)
    leading, count = positions.shape, augmentation.count
    flat = map_leaves(lambda a: np.asarray(a).reshape(-1, *a.shape[len(leading) :]), x)
    made = [
        _view(augmentation, map_leaves(itemgetter(i), flat), (key, int(position), view))
        for i, position in enumerate(positions.ravel())
        for view in range(count)
    ]
    if not made:
        raise ValueError("Views are made of at least one example. Received: none.")
    rows = keras.tree.map_structure(lambda *parts: _stacked(parts), *made)
    return map_leaves(lambda a: a.reshape(*leading, count, *a.shape[1:]), rows)


def settle_views(augmentation: Augmentation, x: Tree) -> Tree:
    """Return what has the shapes of some views; they are made when examples are read.

    Args:
        augmentation: Makes a view; where is noted on it.
        x: A few examples.

    Raises:
        ValueError: for views of another structure, or that are no numbers fit for training.
        NotPrivateError: for a layer that stores what it computes.
    """
    augmentation.build(x)
    augmentation.on_host = True
    positions = np.arange(len(leaves(x)[0]))
    shapes = views_on_host(augmentation, x, positions, np.zeros(2, np.uint32))
    return map_leaves(lambda a: np.broadcast_to(np.zeros((), a.dtype), a.shape), shapes)


def _view(augmentation: Augmentation, row: Tree, own: tuple[Any, int, int]) -> Tree:
    """Return one view of one example, without batch axis, with random numbers of its own."""
    seeds = augmentation.seeds
    mapping = [(seed, _seed(own, number, seed)) for number, seed in enumerate(seeds)]
    batch = map_leaves(lambda a: keras.ops.convert_to_tensor(a[None]), row)
    with keras.StatelessScope(state_mapping=mapping) as scope:
        made = augmentation(batch)
    check_writes(augmentation, scope.state_mapping.keys() - {id(seed) for seed in seeds})
    return map_leaves(keras.ops.convert_to_numpy, checked(row, made))


def _seed(own: tuple[Any, int, int], number: int, state: Any) -> Any:
    """Return the value of a seed that belongs to one view of one example in one update."""
    key, position, view = own
    text = f"{position}/{view}/{number}".encode()
    drawn = hashlib.blake2b(text, key=np.asarray(key, np.uint32).tobytes(), digest_size=8).digest()
    return keras.ops.convert_to_tensor(np.frombuffer(drawn, np.uint32) >> 1, dtype=state.dtype)


def _stacked(parts: tuple[Any, ...]) -> Any:
    return None if parts[0] is None else np.stack(parts)
