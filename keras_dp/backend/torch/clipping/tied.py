"""A table of embeddings that is also the matrix of the logits."""

import torch

from keras_dp.backend.torch.clipping.recording import Derived
from keras_dp.backend.torch.clipping.rules import Dense, Looked, Use


class Tied(Use):
    """Rows that are looked up, and products with the rows of the same table.

    `G_i = E_i + D_i`, so `|G_i|^2 = |E_i|^2 + |D_i|^2 + 2 <E_i, D_i>`; neither is written out. With
    gradients `e_t` of the rows looked up at `id_t`, and `D_i = Y_i' X_i`,
    `<E_i, D_i> = sum_st Y_i[s, id_t] <X_i[s], e_t>`.

    Args:
        weight: The table, of shape `(rows, width)`.
        looked: Where its rows are looked up.
        product: Where it is multiplied with, as it is or transposed.
    """

    name = "tied: rows of equal index, Gram matrices"

    def __init__(self, weight: torch.Tensor, looked: Looked, product: Dense) -> None:
        self.derived = Derived(weight, looked.derived.leaf)
        self.looked, self.product = looked, product

    @property
    def examples(self) -> int:
        """The number of examples."""
        return self.looked.examples

    def gradients(self, rows: slice = slice(None)) -> torch.Tensor:
        """Return the tables."""
        product = self.product.gradients(rows)
        return self.looked.gradients(rows) + self._as_table(product)

    def squares(self) -> torch.Tensor:
        """Return the squared norms, cross terms included."""
        ids, e, x, y = self.looked.ids, self.looked.y, self.product.x, self.product.y
        met = y.gather(2, ids.unsqueeze(1).expand(-1, y.shape[1], -1))
        cross = (met * torch.bmm(x, e.transpose(1, 2))).sum((1, 2))
        return (self.looked.squares() + self.product.squares() + 2 * cross).clamp(min=0)

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the table of all examples."""
        product = self._as_table(self.product.weighted_sum(factors)[None])[0]
        return self.looked.weighted_sum(factors) + product

    def _as_table(self, tables: torch.Tensor) -> torch.Tensor:
        """Return tables, one an example, with a row for each that can be looked up."""
        return tables if self.product.outputs == (0,) else tables.transpose(1, 2)

    @property
    def flops(self) -> int:
        """Operations for the norm of one example."""
        pairs = self.looked.ids.shape[1] * self.product.x.shape[1]
        return self.looked.flops + self.product.flops + 2 * pairs * self.product.x.shape[2]

    @property
    def bytes(self) -> int:
        """Memory that is kept for one example."""
        return self.looked.bytes + self.product.bytes


def tied(weight: torch.Tensor, uses: list[Use]) -> list[Use]:
    """Return the uses of a weight as one, where they are those of a tied table."""
    looked = [use for use in uses if isinstance(use, Looked)]
    products = [use for use in uses if isinstance(use, Dense)]
    if len(uses) != 2 or len(looked) != 1 or len(products) != 1:
        return uses
    value, (table,), (product,) = products[0].derived.value, looked, products
    as_it_is = value is weight and product.outputs == (0,)
    same = value.data_ptr() == weight.data_ptr() and value.shape == weight.T.shape
    transposed = same and value.stride() == weight.T.stride() and product.outputs == (1,)
    if table.derived.value is not weight or not (as_it_is or transposed):
        return uses
    return [Tied(weight, table, product)]
