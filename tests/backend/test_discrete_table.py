"""The alias table against the law of the discrete Gaussian, in exact arithmetic."""

from decimal import Decimal, localcontext
from fractions import Fraction

import pytest

from keras_dp.backend import discrete_table as table

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620900")


def law():
    """The probabilities of |X| for a discrete Gaussian X, normalised by Poisson's summation.

    sum over all integers of exp(-k^2 / (2 s^2)) = s sqrt(2 pi) (1 + 2 exp(-2 pi^2 s^2) + ...), and
    for s = 656 the bracket is 1 to three million digits.
    """
    with localcontext() as context:
        context.prec = 80
        sigma = Decimal(table.SIGMA)
        total = sigma * (2 * PI).sqrt()
        outcomes = range(table.CELLS)
        found = [2 * (-(Decimal(k) ** 2) / (2 * sigma**2)).exp() / total for k in outcomes]
        return [Fraction(p / 2 if k == 0 else p) for k, p in enumerate(found)]


def masses():
    """The probability with which the table, as the sampler reads it, gives each outcome."""
    found = table.alias_table()
    units = 1 << table.BITS
    mass = [0] * table.CELLS
    for cell in range(table.CELLS):
        threshold, alias = divmod(int(found.alias[cell]), table.CELLS)
        for bits, piece in zip(table.PIECES[1:], found.pieces, strict=True):
            threshold = threshold << bits | int(piece[cell])
        mass[cell] += threshold
        mass[alias] += units - threshold
    return [Fraction(m, units * table.CELLS) for m in mass]


def test_the_table_is_the_law_up_to_a_probability_of_two_to_the_minus_116():
    distance = sum(abs(p - q) for p, q in zip(law(), masses(), strict=True)) / 2
    tail = 1 - sum(law())
    assert 0 < tail < Fraction(1, 2**116)
    assert distance + tail / 2 < Fraction(1, 2**116)


def test_the_tail_is_there_at_six_and_at_ten_standard_deviations():
    expected, found = law(), masses()
    for deviations in (6, 8, 10):
        far = range(deviations * table.SIGMA, table.CELLS)
        tail, wanted = sum(found[k] for k in far), sum(expected[k] for k in far)
        assert float(tail / wanted) == pytest.approx(1, abs=1e-6)


def test_mean_square_is_the_variance():
    square = sum(k * k * p for k, p in enumerate(masses()))
    assert float(square) == pytest.approx(table.SIGMA**2, rel=1e-15)


def test_the_pieces_of_a_threshold_have_their_bits():
    found = table.alias_table()
    pieces = [found.alias // table.CELLS, *found.pieces]
    for piece, bits in zip(pieces, table.PIECES, strict=True):
        assert 0.99 * 2**bits < piece.max() < 2**bits
