"""What one use of a weight adds to every example's gradient of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

Factor = Any
"""Rows of numbers, float32 `(examples, positions, size)`, or positions of ones, integer
`(examples, positions)`."""


@dataclass(frozen=True)
class Written:
    """Gradients in full.

    Attributes:
        values: float32 array of shape `(examples, *shape of the weight)`.
    """

    values: Any

    def joined(self, views: int) -> "Written":
        """Add up the gradients of the views of an example."""
        if views == 1:
            return self
        values = tf.reshape(self.values, (-1, views, *self.values.shape[1:]))
        return Written(tf.reduce_sum(values, 1))

    def written(self) -> Any:
        """Return the gradients in full."""
        return self.values


@dataclass(frozen=True)
class Factored:
    """Gradients as sums of outer products, `sum_t rows[t] columns[t]'`, as a matrix.

    Attributes:
        rows: The factor along the first axis of the matrix.
        columns: The factor along the second.
        size: Rows and columns of the matrix.
        shape: Shape of the weight, whose numbers lie as the matrix' do.
    """

    rows: Factor
    columns: Factor
    size: tuple[int, int]
    shape: tuple[int, ...]

    @property
    def positions(self) -> int:
        """How many outer products an example's gradient is the sum of."""
        return int(self.rows.shape[1])

    @property
    def flipped(self) -> "Factored":
        """The same gradients for the transposed matrix."""
        size = (self.size[1], self.size[0])
        return Factored(self.columns, self.rows, size, size)

    def joined(self, views: int) -> "Factored":
        """Make the views of an example further positions."""
        if views == 1:
            return self
        rows, columns = (
            tf.reshape(each, (-1, views * each.shape[1], *each.shape[2:]))
            for each in (self.rows, self.columns)
        )
        return replace(self, rows=rows, columns=columns)

    def followed_by(self, other: "Factored") -> "Factored":
        """Add up two gradients of a kind: the positions of one, then those of the other."""
        rows = tf.concat([self.rows, other.rows], 1)
        return replace(self, rows=rows, columns=tf.concat([self.columns, other.columns], 1))

    def like(self, other: "Factored") -> bool:
        """Whether both have factors of the same kind."""
        return (
            self.rows.shape.rank == other.rows.shape.rank
            and self.columns.shape.rank == other.columns.shape.rank
            and self.size == other.size
        )

    def written(self) -> Any:
        """Return the gradients in full."""
        if self.columns.shape.rank == 2:
            matrix = tf.transpose(self.flipped.written(), (0, 2, 1))
        elif self.rows.shape.rank == 2:
            matrix = _scattered(self.rows, self.columns, self.size[0])
        else:
            matrix = tf.matmul(self.rows, self.columns, transpose_a=True)
        return tf.reshape(matrix, (-1, *self.shape))

    def inner(self, other: "Factored") -> Any:
        """Return the inner products of each example's two gradients."""
        products = _products(self.rows, other.rows) * _products(self.columns, other.columns)
        return tf.reduce_sum(products, (1, 2))

    def total(self, factors: Any) -> Any:
        """Return the sum of the gradients times the examples' factors, as a matrix."""
        if self.columns.shape.rank == 2:
            return tf.transpose(self.flipped.total(factors))
        columns = tf.reshape(self.columns * factors[:, None, None], (-1, self.size[1]))
        if self.rows.shape.rank == 2:
            return tf.math.unsorted_segment_sum(columns, tf.reshape(self.rows, (-1,)), self.size[0])
        rows = tf.reshape(self.rows, (-1, self.size[0]))
        return tf.matmul(rows, columns, transpose_a=True)

    def kept(self, taken: Any) -> "Factored":
        """Put zeros in the place of examples that are not taken, whatever they have."""
        rows, columns = (
            each if each.shape.rank == 2 else tf.where(taken[:, None, None], each, 0.0)
            for each in (self.rows, self.columns)
        )
        return replace(self, rows=rows, columns=columns)


Contribution = Written | Factored


def merged(contributions: Sequence[Factored]) -> list[Factored]:
    """Join those of a kind, so that few are left."""
    found: list[Factored] = []
    for each in contributions:
        for place, other in enumerate(found):
            if other.like(each):
                found[place] = other.followed_by(each)
                break
        else:
            found.append(each)
    return found


def _products(ours: Factor, theirs: Factor) -> Any:
    """Return the inner products of all rows of ours with all of theirs."""
    if ours.shape.rank == 3 and theirs.shape.rank == 3:
        return tf.matmul(ours, theirs, transpose_b=True)
    if ours.shape.rank == 3:
        return tf.transpose(_products(theirs, ours), (0, 2, 1))
    if theirs.shape.rank == 3:
        return tf.gather(tf.transpose(theirs, (0, 2, 1)), ours, axis=1, batch_dims=1)
    same = tf.equal(ours[:, :, None], tf.cast(theirs, ours.dtype)[:, None, :])
    return tf.cast(same, tf.float32)


def _scattered(places: Any, rows: Any, size: int) -> Any:
    """Add the rows of each example at its places in a matrix of `size` rows."""
    examples = int(places.shape[0])
    own = size * tf.range(examples, dtype=places.dtype)[:, None] + places
    flat = tf.reshape(rows, (-1, rows.shape[-1]))
    summed = tf.math.unsorted_segment_sum(flat, tf.reshape(own, (-1,)), examples * size)
    return tf.reshape(summed, (examples, size, rows.shape[-1]))
