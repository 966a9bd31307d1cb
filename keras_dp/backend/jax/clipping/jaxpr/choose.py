"""The cost model: which of several equal ways is cheaper."""

MEMORY_COST = 60
"""Multiply-adds that are worth saving one number an example that is kept until the sum."""

PATCH_MEMORY_COST = 30
"""The same for convolutions, whose weighted sum is slower by the platform's own operation."""

WRITTEN_OUT_BYTES = 2**28
"""Memory for the gradients of one weight that are written out; beyond it they come in slices of the
batch and are computed again for the sum."""

LONG_SEQUENCE = 512
"""Positions above which equal ids are found by sorting, not by comparing all pairs."""


def writes_out(positions: int, left: int, right: int) -> bool:
    """Whether writing out gradients of shape `(left, right)` beats Gram matrices.

    Both cost one product over positions for the weighted sum. Gram matrices add
    `positions^2 (left + right)`; gradients that are written out add only memory traffic.
    """
    return positions**2 * (left + right) > MEMORY_COST * left * right


def patch_grams(inputs: int, outputs: int, offsets: int, left: int, right: int) -> bool:
    """Whether Gram matrices of patches beat kernel gradients that are written out.

    Gram matrices of all input pixels and all outputs, added up over the kernel's offsets, against
    the memory traffic of `offsets * left * right` numbers an example.
    """
    grams = inputs**2 * left + outputs**2 * (right + 10 * offsets)
    return grams < PATCH_MEMORY_COST * offsets * left * right
