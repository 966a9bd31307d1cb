"""Random views of examples, made before any gradient is asked for."""

import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import numpy.typing as npt

from keras_dp.augmentation import Augmentation
from keras_dp.backend.jax.mesh import undistributed
from keras_dp.backend.views import BadViewsError, check_writes, checked
from keras_dp.errors import NotPrivateError
from keras_dp.types import Tree


def make_views(augmentation: Augmentation, x: Tree, positions: Any, key: Any) -> Tree:
    """Return random views of examples, each made from its example alone.

    Args:
        augmentation: Makes a view.
        x: Examples, each leaf with one row for each.
        positions: Their places in the batch, from which, with the key, random numbers follow.
        key: uint32 array of shape `(2,)`, this update's.

    Returns:
        The views, each leaf of shape `(examples, views, ...)`.

    Privacy:
        This is no part of the loss that is differentiated, and so cannot be run again with other
        random numbers: the norm of an example's gradient and the gradient itself are of the same
        views, also where the engine computes a pass twice (a slice of the batch at a time, another
        loss scale). Otherwise the norm of one would scale the other, and the clip norm would bound
        nothing. tests/training/test_augmentation.py holds it.
    """
    root = jax.random.wrap_key_data(key, impl="threefry2x32")

    def of_one(row: Tree, position: Any) -> Tree:
        own = jax.random.fold_in(root, position)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(own, np.arange(augmentation.count))
        return jax.vmap(lambda key: _view(augmentation, row, key))(keys)

    return jax.vmap(of_one)(x, positions)


def views_on_host(
    augmentation: Augmentation, x: Tree, positions: npt.NDArray[np.int64], key: Any
) -> Tree:
    """Return random views of examples that were read, for what cannot be compiled.

    Args:
        augmentation: Makes a view.
        x: Examples, each leaf of shape `(*positions.shape, ...)`.
        positions: Their positions in the data.
        key: As for `make_views`.

    Returns:
        NumPy arrays of shape `(*positions.shape, views, ...)`.
    """
    leading = positions.shape
    flat = jax.tree.map(lambda a: np.asarray(a).reshape(-1, *a.shape[len(leading) :]), x)
    make = _by_tensorflow if augmentation.is_tensorflow else _one_by_one
    rows = make(augmentation, flat, positions.ravel(), key)
    return jax.tree.map(lambda a: a.reshape(*leading, augmentation.count, *a.shape[1:]), rows)


def settle_views(augmentation: Augmentation, x: Tree) -> Tree:
    """Find out whether views can be compiled, and return what has the shapes of some views.

    Args:
        augmentation: Makes a view; where is noted on it.
        x: A few examples.

    Raises:
        ValueError: for views of another structure, or that are no numbers fit for training.
        NotPrivateError: for a layer that stores what it computes.
    """
    positions = np.arange(len(jax.tree.leaves(x)[0]))
    key = np.zeros(2, np.uint32)
    augmentation.build(x)
    try:
        shapes = jax.eval_shape(lambda x: make_views(augmentation, x, positions, key), x)
        augmentation.on_host = False
    except (BadViewsError, NotPrivateError):
        raise
    except Exception as error:  # whatever a library says to a traced array
        shapes = views_on_host(augmentation, x, positions, key)
        if augmentation.on_host is None:
            name = getattr(augmentation.function, "name", "the function")
            warnings.warn(
                f"`augmentation` {name!r} cannot be compiled for JAX ({type(error).__name__}), so "
                "its views are made on the host when examples are read, each example by itself, "
                "which is slower. Layers of `keras.layers` are compiled, but for `RandomCrop`: "
                "`keras_dp.applications.ReflectPadCrop` takes its place.",
                stacklevel=5,
            )
        augmentation.on_host = True
    return jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), a.shape), shapes)


def _view(augmentation: Augmentation, row: Tree, key: Any) -> Tree:
    """Return one view of one example, without batch axis."""
    seeds = augmentation.seeds
    states = [jax.random.key_data(jax.random.fold_in(key, i)) for i in range(len(seeds))]
    mapping = list(zip(seeds, states, strict=True))
    with undistributed(), keras.StatelessScope(state_mapping=mapping) as scope:
        made = augmentation(jax.tree.map(lambda a: jnp.asarray(a)[None], row))
    check_writes(augmentation, scope.state_mapping.keys() - {id(seed) for seed in seeds})
    return checked(row, made)


def _one_by_one(augmentation: Augmentation, x: Tree, positions: Any, key: Any) -> Tree:
    root = jax.random.wrap_key_data(key, impl="threefry2x32")
    made = []
    for i, position in enumerate(positions):
        row = jax.tree.map(lambda a, i=i: a[i], x)
        own = jax.random.fold_in(root, int(position))
        for k in range(augmentation.count):
            view = _view(augmentation, row, jax.random.fold_in(own, k))
            made.append(jax.tree.map(np.asarray, view))
    return jax.tree.map(lambda *parts: np.stack(parts), *made)


def _by_tensorflow(augmentation: Augmentation, x: Tree, positions: Any, key: Any) -> Tree:
    """Let TensorFlow map over the views: what is mapped sees a batch of one, as in `_view`."""
    del positions, key

    def view(row: Tree) -> Tree:
        return checked(row, augmentation(jax.tree.map(lambda a: a[None], row)))

    if augmentation.mapped is None:
        tf: Any = sys.modules["tensorflow"]  # KerasCV has imported it
        one = view(jax.tree.map(lambda a: tf.convert_to_tensor(a[0]), x))
        types = jax.tree.map(lambda a: tf.as_dtype(np.asarray(a).dtype), one)
        augmentation.mapped = tf.function(
            lambda rows: tf.map_fn(view, rows, fn_output_signature=types), reduce_retracing=True
        )
    repeated = jax.tree.map(lambda a: np.repeat(a, augmentation.count, axis=0), x)
    return jax.tree.map(np.asarray, augmentation.mapped(repeated))
