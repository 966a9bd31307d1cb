"""Discrete noise: its law, its lattice, its rounding. Tests of the law reject wrong scales too."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from keras_dp import noise
from keras_dp.backend.discrete_table import BITS, CELLS, PIECES, SIGMA, alias_table
from keras_dp.backend.jax.noise import discrete, drawing
from keras_dp.plan import LATTICE
from keras_dp.types import Part

SIGNIFICANCE = 1e-6  # seeded: they pass or fail for good; a new seed fails one in 25,000 times
OVERLAP = 2  # in docs/noise.md: draws of scales closer than this add up to a discrete Gaussian
STDDEVS = [0.37, 1.0, 2.0**-20, 3.1e-12, 123456.7]
floats = st.floats(2.0**-60, 2.0**60, width=32)


def noisy(sums, stddev, update=0, seed=0):
    key = noise.noise_key(seed, update, "discrete_gaussian")
    return [np.asarray(n) for n in noise.add_noise(sums, key, stddev, "discrete_gaussian")]


def drawn(count, stddev=1.0, **settings):
    (found,) = noisy([jnp.zeros(count)], stddev, **settings)
    return found


def integers_of(update, *counts, multiplier=150_000, seed=0):
    key = noise.noise_key(seed, update, "discrete_gaussian")
    multipliers = jnp.full(len(counts), multiplier, jnp.int32)
    bases, _ = drawing.positions([(count,) for count in counts])
    wanted = [
        drawing.stretches_of(Part((count,), (0,)), (count,), base)
        for count, base in zip(counts, bases, strict=True)
    ]
    return [np.asarray(n)[0] for n in drawing.integers(key, multipliers, wanted)]


def scale(multiplier):
    """Standard deviation of `x + INNER * y + multiplier * z`, in steps."""
    return SIGMA * math.sqrt(1 + drawing.INNER**2 + multiplier**2)


def fits(sample, stddev):
    """Whether 300 cells of equal probability hold what a normal law puts there."""
    cells = np.floor(300 * stats.norm.cdf(sample / stddev)).astype(int).clip(0, 299)
    return stats.chisquare(np.bincount(cells, minlength=300)).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("stddev", STDDEVS)
def test_noise_is_normal_with_the_asked_standard_deviation(stddev):
    sample = drawn(300_000, stddev)
    assert sample.dtype == np.float32
    assert fits(sample, stddev)
    assert stats.kstest(sample / stddev, "norm").pvalue > SIGNIFICANCE
    for wrong in (2 / 3, 3 / 2):
        assert not fits(sample, stddev * wrong)
        assert stats.kstest(sample / (stddev * wrong), "norm").pvalue < SIGNIFICANCE


def test_mean_and_variance_are_those_of_the_law():
    """Two million draws know the standard deviation to 0.25 %, at five standard errors."""
    (sample,) = integers_of(0, 2_000_000)
    sample = sample / scale(150_000)
    assert abs(sample.mean()) < 5 / math.sqrt(sample.size)
    assert abs(sample.std() - 1) < 5 / math.sqrt(2 * sample.size)


def test_the_tail_goes_beyond_what_float32_noise_can_reach():
    (sample,) = integers_of(1, 4_000_000)
    sizes = np.abs(sample) / scale(150_000)
    for far in (3.5, 4.0, 4.5, 5.0):
        expected = 2 * stats.norm.sf(far) * sample.size
        found = np.count_nonzero(sizes > far)
        assert stats.poisson.cdf(found, expected) > SIGNIFICANCE
        assert stats.poisson.sf(found - 1, expected) > SIGNIFICANCE


def test_the_last_draw_reaches_ten_standard_deviations():
    """The cell of an outcome far out gives it, if the number that is drawn is below its threshold.

    With the exact table that settles the tail: the other two draws are a ten-thousandth of it.
    """
    for outcome in (6 * SIGMA, 8 * SIGMA, CELLS - 1):
        for sign in (0, 1):
            field = jnp.array([outcome | sign << 13], jnp.uint32)
            value, _ = drawing.draw(alias_table(), field, [jnp.zeros(1, jnp.uint32)] * 4)
            assert int(value[0]) == (-outcome if sign else outcome)


def test_a_draw_has_the_law_of_the_discrete_gaussian():
    words = np.random.default_rng(0).integers(0, 2**32, (2, 2_000_000), dtype=np.uint32)
    values, _ = drawing.draw(alias_table(), words[0], [words[1] >> 22])
    counts = np.bincount(np.asarray(values) + CELLS, minlength=2 * CELLS)
    outcomes = np.arange(-CELLS, CELLS)

    def accepted(sigma):
        masses = np.exp(-((outcomes / sigma) ** 2) / 2)
        near = np.abs(outcomes) <= 2 * SIGMA
        expected = masses[near] / masses.sum() * len(words[0])
        observed = np.append(counts[near], counts[~near].sum())
        expected = np.append(expected, len(words[0]) - expected.sum())
        return stats.chisquare(observed, expected).pvalue > SIGNIFICANCE

    assert accepted(SIGMA)
    assert not accepted(SIGMA * 2 / 3)
    assert not accepted(SIGMA * 3 / 2)
    assert not accepted(SIGMA * 1.02)


def test_the_first_two_draws_together_leave_no_remainder_out():
    (sample,) = integers_of(2, 1_000_000, multiplier=0)
    x = (sample + drawing.INNER * CELLS) % drawing.INNER  # of x + INNER * y, x is left
    remainders = np.bincount(x, minlength=drawing.INNER)
    assert stats.chisquare(remainders).pvalue > SIGNIFICANCE
    assert fits(sample, scale(0))


def test_the_last_bits_of_the_noise_are_even():
    (sample,) = integers_of(3, 1_000_000)
    for shift in range(0, 24, 8):
        counts = np.bincount(sample >> shift & 0xFF, minlength=256)
        assert stats.chisquare(counts).pvalue > SIGNIFICANCE


def test_neighbours_parts_chunks_variables_and_updates_are_unrelated():
    chunk = 4 * 2**13
    first, second = integers_of(0, 9 * chunk, 9 * chunk)
    (later,) = integers_of(1, 9 * chunk)
    (other_seed,) = integers_of(0, 9 * chunk, seed=1)
    pairs = {
        "neighbours": (first[:-1], first[1:]),
        "parts of a block": (first[0::4], first[1::4]),
        "chunks": (first[:chunk], first[chunk : 2 * chunk]),
        "variables": (first, second),
        "updates": (first, later),
        "seeds": (first, other_seed),
    }
    for name, (one, other) in pairs.items():
        bound = 5 / math.sqrt(one.size)
        assert abs(np.corrcoef(one, other)[0, 1]) < bound, name
        assert abs(np.corrcoef(one & 0xFF, other & 0xFF)[0, 1]) < bound, name
        assert abs(np.corrcoef(np.abs(one), np.abs(other))[0, 1]) < bound, name


def test_no_key_is_short_and_a_seed_repeats_the_noise_bit_for_bit():
    assert noise.noise_key(None, 0, "discrete_gaussian").nbytes == 32
    np.testing.assert_array_equal(drawn(1000), drawn(1000))
    assert np.count_nonzero(drawn(1000) == drawn(1000, update=1)) == 0


@given(floats)
@settings(max_examples=300, deadline=None)
def test_the_noise_of_a_lattice_is_never_too_small_and_hardly_too_large(stddev):
    found = discrete.lattice(stddev)
    step, multiplier = Fraction(float(found.step)), int(found.multiplier)
    assert math.frexp(float(step))[0] == 0.5  # a power of two
    assert Fraction(float(found.inverse)) * step == 1
    assert step * LATTICE <= Fraction(stddev) < 2 * step * LATTICE
    variance = SIGMA**2 * (1 + drawing.INNER**2 + multiplier**2)
    promised = (Fraction(stddev) / step) ** 2
    least = promised * (1 + Fraction(1, 10**5)) + OVERLAP**2  # stddev itself is rounded to float32
    assert least <= variance <= promised * (1 + Fraction(12, 10**5))


def test_the_scales_of_the_draws_lie_close_enough_together():
    """The condition of docs/noise.md, at the largest multiplier there can be, and no overflow."""
    largest = int(discrete.lattice(np.nextafter(np.float32(1), np.float32(0))).multiplier)
    inner = Fraction(1 + drawing.INNER**2, SIGMA**2)
    outer = Fraction(1, SIGMA**2) + Fraction(largest**2, SIGMA**2 * (1 + drawing.INNER**2))
    assert max(inner, outer) <= 1 / Fraction(OVERLAP) ** 2
    assert (CELLS - 1) * (1 + drawing.INNER + largest) < 2**31


def gaussian(sigma, outcomes):
    return [(-Decimal(k * k) / (2 * Decimal(sigma))).exp() for k in outcomes]


@pytest.mark.parametrize("factor", [3, 4])
def test_a_sum_of_two_discrete_gaussians_is_one_when_their_scales_overlap(factor):
    """The lemma of docs/noise.md, on numbers small enough to add up: variances 64 and 64."""
    with localcontext() as context:
        context.prec = 60
        law = dict(zip(range(-150, 151), gaussian(64, range(-150, 151)), strict=True))
        variance = 64 * (1 + factor**2)
        found = [
            sum(law[n - factor * z] * law[z] for z in law if abs(n - factor * z) <= 150)
            for n in range(20)
        ]
        ratios = [p / q for p, q in zip(found, gaussian(variance, range(20)), strict=True)]
        squared = 1 / (Decimal(1) / 64 + Decimal(factor**2) / 64)  # of the overlap
        bound = 2 * (-2 * Decimal(math.pi) ** 2 * squared).exp()
        assert max(ratios) / min(ratios) - 1 < 3 * bound
        assert max(ratios) / min(ratios) - 1 > bound / 100  # and the bound is no idle one


totals = st.lists(st.floats(-(2.0**12), 2.0**12, width=32), min_size=20, max_size=20)


@given(totals, st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_a_release_is_the_exact_sum_of_integers_rounded_once(values, seed):
    found = discrete.lattice(1.0)
    spread = np.random.default_rng(seed).integers(-(2**30), 2**30, len(values)).astype(np.int32)
    totals_ = jnp.array(values, jnp.float32)
    released = np.asarray(discrete.release(totals_, jnp.asarray(spread), found))
    step = Fraction(float(found.step))
    for total, added, value in zip(np.asarray(totals_), spread, released, strict=True):
        point = round(Fraction(float(total)) / step) + int(added)
        assert value == np.float32(point) * np.float32(found.step)


@given(totals, st.integers(0, 2**32 - 1), st.sampled_from([1.0, 7.3, 0.01]))
@settings(max_examples=200, deadline=None)
def test_rounding_moves_two_sums_apart_by_a_step_in_each_number_at_most(values, seed, stddev):
    found = discrete.lattice(stddev * LATTICE / 16)  # coarse, so that rounding is seen
    rng = np.random.default_rng(seed)
    one = np.array(values, np.float32)
    other = (one + rng.normal(0, stddev, one.shape)).astype(np.float32)
    nothing = jnp.zeros(one.shape, jnp.int32)
    rounded = [np.asarray(discrete.release(jnp.array(t), nothing, found)) for t in (one, other)]
    before = math.dist(one.astype(float), other.astype(float))
    after = math.dist(*(r.astype(float) for r in rounded))
    assert after <= before + float(found.step) * math.sqrt(len(values)) * (1 + 1e-9)


def test_rounding_can_move_sums_apart_by_nearly_as_much_as_is_accounted():
    found = discrete.lattice(float(LATTICE))
    assert float(found.step) == 1
    sums = [jnp.full(100, 0.49), jnp.full(100, 0.51)]
    rounded = [np.asarray(discrete.release(s, jnp.zeros(100, jnp.int32), found)) for s in sums]
    assert math.dist(*rounded) == 10  # sqrt(100) steps
    assert math.dist(*map(np.asarray, sums)) == pytest.approx(0.2, rel=1e-5)


def test_released_numbers_are_lattice_points_whatever_the_sum():
    for stddev in STDDEVS:
        step = float(discrete.lattice(stddev).step)
        for total in (0.0, 0.1 * stddev, -33.3 * stddev):
            (found,) = noisy([jnp.full(1000, total, jnp.float32)], stddev)
            points = found.astype(float) / step
            np.testing.assert_array_equal(points, np.round(points))


def test_sums_are_kept_up_to_a_million_standard_deviations():
    far = [1e5, -1e5, 1e6, -1e6]
    (found,) = noisy([jnp.array([*far, 1e12, -1e12])], 1.0)
    np.testing.assert_allclose(found[:4], far, atol=6)
    np.testing.assert_allclose(found[4:], [2**21, -(2**21)], atol=6)


def test_without_noise_the_sums_stay_and_endless_noise_leaves_nothing_of_them():
    sums = [jnp.array([0.1, 0.2, 1e-20])]
    np.testing.assert_array_equal(noisy(sums, 0.0)[0], sums[0])
    for stddev in (math.inf, math.nan):
        assert np.isnan(noisy(sums, stddev)[0]).all()


def test_the_least_noise_there_is_a_lattice_for_is_no_less_than_was_asked():
    assert drawn(10_000, 1e-36).astype(float).std() > 1e-36


def test_sums_of_any_shape_and_type_are_noised_each_with_its_own_stddev():
    sums = [jnp.zeros((300, 400)), jnp.zeros(()), jnp.zeros((100, 1000), jnp.bfloat16)]
    wide, narrow = jnp.float32(2.0), jnp.float32(0.25)
    found = noisy(sums, [wide, wide, narrow])
    assert [f.shape for f in found] == [s.shape for s in sums]
    assert {f.dtype for f in found} == {np.dtype("float32")}
    assert fits(found[0].ravel(), 2.0)
    assert fits(found[2].ravel(), 0.25)
    assert noisy([], 1.0) == []


def test_bits_that_leave_a_draw_undecided_are_followed_by_more(monkeypatch):
    """28 bits of the threshold decide, unless they are equal: then the next 96."""
    table = alias_table()
    cell = next(c for c in range(1, CELLS) if table.alias[c] % CELLS != c)
    top, alias = divmod(int(table.alias[cell]), CELLS)
    ten, *lower = (int(piece[cell]) for piece in table.pieces)
    field, tens = cell | top << 14, ten | ten << 10 | ten << 20
    below = [0]

    def blocks(key, counter, nonce):
        del key
        equal = [field, field, field, tens] * 4
        chosen = [lower[0] - below[0], *lower[1:]] * 5 + [0] if nonce[1] else equal
        return [jnp.full(counter.shape, word, jnp.uint32) for word in chosen]

    monkeypatch.setattr(drawing.chacha, "blocks", blocks)
    for below[0], outcome in ((1, cell), (0, alias)):
        starts = [jnp.zeros(1, jnp.uint32)]
        numbers = drawing._integers.__wrapped__(
            None, jnp.ones(1, jnp.int32), starts, ((1, 6, True),)
        )
        assert set(np.asarray(numbers[0])[0]) == {outcome * (2 + drawing.INNER)}


def test_a_draw_compares_all_its_bits():
    """Every outcome of numbers around the threshold, by whole numbers of Python."""
    table = alias_table()
    for cell in (0, 1, 2047, CELLS - 1):
        threshold, alias = divmod(int(table.alias[cell]), CELLS)
        for bits, piece in zip(PIECES[1:], table.pieces, strict=True):
            threshold = threshold << bits | int(piece[cell])
        for number in (threshold - 1, threshold, threshold + 1):
            if not 0 <= number < 1 << BITS:
                continue
            left, pieces = number, []
            for bits in reversed(PIECES[1:]):
                left, piece = divmod(left, 1 << bits)
                pieces.insert(0, jnp.array([piece], jnp.uint32))
            value, undecided = drawing.draw(
                table, jnp.array([cell | left << 14], jnp.uint32), pieces
            )
            assert int(value[0]) == (cell if number < threshold else alias)
            assert bool(undecided[0]) == (number == threshold)
