"""Structures of tensors as flat lists, with `None` where there is no tensor."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_dp.types import Tree


class Packed:
    """A structure whose leaves that are tensors can be taken out and put in again.

    Args:
        tree: A structure of tensors and `None`.

    Attributes:
        tensors: Its tensors in order.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._leaves = tf.nest.flatten(tree)
        self.tensors = [tf.convert_to_tensor(leaf) for leaf in self._leaves if leaf is not None]

    def unpacked(self, tensors: Sequence[Any]) -> Tree:
        """Return the structure with other tensors."""
        others = iter(tensors)
        leaves = [None if leaf is None else next(others) for leaf in self._leaves]
        return tf.nest.pack_sequence_as(self._tree, leaves)
